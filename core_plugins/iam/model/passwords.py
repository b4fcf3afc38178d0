"""Which passwords are taken, and how they are hashed; the hashing itself is a driver."""

from __future__ import annotations

import re
import unicodedata
from typing import Final, Protocol

from plugin_api.errors import Violation

DERIVED_LENGTH_MIN: Final = 4
"""Shorter words of an account (`bo`, `de`) say nothing about a password that holds them."""

_WORDS: Final = """
    123456 password 12345678 qwerty 123456789 12345 1234 111111 1234567 dragon 123123 baseball abc123 football monkey
    letmein 696969 shadow master 666666 qwertyuiop 123321 mustang 1234567890 michael 654321 superman 1qaz2wsx 7777777
    121212 000000 qazwsx 123qwe killer trustno1 jordan jennifer zxcvbnm asdfgh hunter buster soccer harley batman andrew
    tigger sunshine iloveyou 2000 charlie robert thomas hockey ranger daniel starwars klaster 112233 george computer
    michelle jessica pepper 1111 zxcvbn 555555 11111111 131313 freedom 777777 pass maggie 159753 aaaaaa ginger princess
    joshua cheese amanda summer love ashley nicole chelsea biteme matthew access yankees 987654321 dallas austin thunder
    taylor matrix welcome admin administrator root login passw0rd password1 password123 qwerty123 1q2w3e4r 1q2w3e4r5t
    default changeme secret letmein123 welcome123 admin123 iloveyou1 monkey123 dragon123 hello hello123 whatever test
    testing test123 guest guest123 asdfghjkl asdf1234 zaq12wsx q1w2e3r4 q1w2e3r4t5 qwer1234 qwertyui 1234qwer abcd1234
    abcdefgh abcdef abc12345 a1b2c3d4 p@ssw0rd p@ssword pa55word passwort passwort1 hallo hallo123 schalke04 azerty
    azertyuiop motdepasse contraseña contrasena senha123 mima parola heslo wachtwoord lozinka parool salasana senha
    football1 baseball1 superman1 batman123 pokemon naruto minecraft fortnite liverpool arsenal chelsea1 barcelona
    realmadrid juventus samsung google facebook linkedin twitter instagram apple android microsoft windows ubuntu
    internet network database server oracle postgres mysql redis docker kubernetes kernel platform company business
    correcthorsebatterystaple correcthorse trustno1trustno1 letmeinletmein passwordpassword qwertyqwerty
    1234567891 12345678910 123456789012 1234567890123 12345678901234 123456123456 123123123123 111111111111
    000000000000 012345678910 0123456789 01234567890 098765432100 0987654321 987654321012 qwertyuiop12 qwertyuiop123
    qwertyuiop[] 1qaz2wsx3edc 1qaz2wsx3edc4rfv qazwsxedc qazwsxedcrfv zaq1xsw2 zaq1xsw2cde3 q1w2e3r4t5y6 1q2w3e4r5t6y
    1a2b3c4d5e6f asdfghjkl123 asdfasdfasdf zxcvbnm12345 zxcvbnmasdfg abcdefghijkl abcdefghijklm abcdefg12345 abc123abc123
    password1234 password12345 password123456 password2023 password2024 password2025 password2026 passw0rd1234
    p@ssw0rd1234 p@ssw0rd123 welcome12345 welcome1234 welcome2024 welcome2025 welcome2026 administrator1 admin1234567
    adminadmin adminadminadmin administrator123 changeme1234 changeme123 changemenow iloveyou1234 iloveyouforever
    iloveyousomuch sunshine1234 princess1234 football1234 baseball1234 superman1234 starwars1234 michael12345
    summer2023 summer2024 summer2025 summer2026 winter2023 winter2024 winter2025 winter2026 spring2025 spring2026
    autumn2025 autumn2026 fall2025 january2026 february2026 monday12345 secret123456 secretsecret mysecretpassword
    mypassword mypassword1 mypassword123 thisispassword thisismypassword yourpassword newpassword newpassword1
    temppassword temppassword1 temporary123 password!123 testpassword testtest1234 testtesttest test12345678
    defaultpassword supersecret supersecret1 topsecret123 letmein12345 letmein123456 opensesame opensesame123
    qwerty123456 qwerty12345 qwerty1234567 qwerty12345678 1234567qwerty 123456qwerty 12345qwerty qwe123qwe123
    asd123asd123 zxc123zxc123 q1q1q1q1q1q1 a1a1a1a1a1a1 aaaaaaaaaaaa aaaaaaaaaaaaa xxxxxxxxxxxx zzzzzzzzzzzz
"""
_COMMON: Final = frozenset(_WORDS.split())
"""The commonest passwords of published leaks, and what people make of them to reach twelve characters. Lower case."""

_WORD_ENDS: Final = re.compile(r"[^0-9a-z]+")
_TAIL: Final = re.compile(r"[\d\W_]*\Z")
_LEET: Final = str.maketrans("013457@$!", "oieastasi")


class PasswordHasher(Protocol):
    """Hashes and verifies, slowly on purpose, without keeping the event loop.

    Raises, all of them:
        LimitReached: too many passwords are waiting already.
    """

    async def hash(self, password: str) -> str:
        """Return a salted hash with its parameters, as text."""
        ...

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether `password` is the one that was hashed. Takes as long for `stored=None`, which no password fits."""
        ...

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made with other parameters than those of now."""
        ...


def normalized(password: str) -> bytes:
    """The bytes that are hashed: NFC, so that one password typed on two systems stays one (RFC 8265, 4.2)."""
    return unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")


def find_weakness(password: str, *account_words: str) -> str | None:
    """Tell what is wrong with a new password of the right length, or None. The text never holds the password.

    `account_words` are what an attacker knows of the account: its e-mail address, the tenant's slug, names.
    """
    plain = unicodedata.normalize("NFKC", password).casefold().strip()
    bare = _TAIL.sub("", plain)
    candidates = {plain, bare, plain.translate(_LEET), bare.translate(_LEET)}
    if candidates & _COMMON or _repeats(plain):
        return "it is among the commonest passwords, which are tried first; choose another, such as four random words"
    squeezed = {_WORD_ENDS.sub("", plain), _WORD_ENDS.sub("", bare)}
    if squeezed & _derived(account_words) or plain in {word.casefold() for word in account_words}:
        return "it is made of the account's own name or address; choose one that nobody can derive"
    return None


def weakness(pointer: str, password: str, *account_words: str) -> list[Violation]:
    """`find_weakness` as violations at `pointer`: none or one."""
    detail = find_weakness(password, *account_words)
    return [] if detail is None else [Violation(pointer, "weak_password", detail)]


def _repeats(plain: str) -> bool:
    """Whether the whole is one short piece again and again: `abcabcabcabc`, `passwordpassword`."""
    doubled = (plain + plain).find(plain, 1)
    if not 0 < doubled < len(plain):
        return False
    return doubled <= 4 or plain[:doubled] in _COMMON


def _derived(account_words: tuple[str, ...]) -> set[str]:
    """Every piece and every combination in order that an account's words offer, squeezed to letters and digits."""
    pieces: set[str] = set()
    for word in account_words:
        lower = word.casefold()
        local, _, domain = lower.partition("@")
        for part in (lower, local, domain, domain.partition(".")[0]):
            for piece in (_WORD_ENDS.sub("", part), _WORD_ENDS.sub("", _TAIL.sub("", part))):
                pieces.update({piece, piece[::-1], piece * 2, piece * 3})
    return {piece for piece in pieces if len(piece) >= DERIVED_LENGTH_MIN}
