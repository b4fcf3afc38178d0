"""The plugin in a real kernel: `pytest` in this folder, with `acme-notes` and `platform-kernel[embedded,test]` installed."""

from __future__ import annotations

from plugin_api.testing import Tenant

NOTES = "/api/v1/x/acme.notes/notes"


async def test_a_note_is_changed_by_who_has_read_it(tenant: Tenant) -> None:
    made = (await tenant.owner.post(NOTES, {"text": "first"})).expect(201)
    path = f"{NOTES}/{made['id']}"

    changed = await tenant.owner.patch(path, {"text": "second"}, etag=made.etag)
    late = await tenant.owner.patch(path, {"text": "third"}, etag=made.etag)

    assert "second" == changed.expect(200)["text"]
    assert "precondition_failed" == late.expect(412).code


async def test_a_viewer_needs_the_permission(tenant: Tenant) -> None:
    viewer = await tenant.add_user("viewer")
    reader = await tenant.add_user(await tenant.add_role("acme.notes.note.read"))

    assert "not_allowed" == (await viewer.get(NOTES)).expect(403).code
    assert [] == (await reader.get(NOTES)).expect(200)["items"]
