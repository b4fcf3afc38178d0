"""The job of `bench.invoice` in FastAPI as it is usually written: pydantic in and out, a dependency that verifies the token."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of functions inside functions.

from typing import Annotated, Any

import jwt
from fastapi import Depends, FastAPI, HTTPException, Request
from pydantic import BaseModel, Field


class Invoice(BaseModel):
    title: str = Field(min_length=1, max_length=120)
    customer: str = Field(min_length=1, max_length=64)
    amount_minor: int = Field(gt=0, le=10**12)
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    due_in_days: int = Field(ge=0, le=365)


class Made(BaseModel):
    number: str
    title: str
    amount_minor: int
    currency: str
    is_large: bool


def make_app(public_key: str) -> FastAPI:
    """The application, with the key that its tokens are signed with."""

    def current_user(request: Request) -> dict[str, Any]:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        try:
            claims: dict[str, Any] = jwt.decode(token, public_key, algorithms=["ES256"], audience="bench")
        except jwt.PyJWTError:
            raise HTTPException(401) from None
        if "invoice.create" not in claims["permissions"]:
            raise HTTPException(403)
        return claims

    app = FastAPI()

    @app.post("/invoices", status_code=201, response_model=Made)
    async def create_invoice(invoice: Invoice, user: Annotated[dict[str, Any], Depends(current_user)]) -> Made:
        return Made(
            number="2026-0001",
            title=invoice.title,
            amount_minor=invoice.amount_minor,
            currency=invoice.currency,
            is_large=invoice.amount_minor > 100_000,
        )

    return app
