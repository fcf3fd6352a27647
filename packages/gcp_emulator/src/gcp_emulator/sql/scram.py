"""What PostgreSQL keeps instead of a password.

The password itself reaches neither the server nor its log: ``CREATE ROLE ... PASSWORD`` takes
the verifier as well (https://www.postgresql.org/docs/current/sql-createrole.html).
"""

import base64
import hashlib
import hmac
import secrets
import stringprep
import unicodedata

_ROUNDS = 4096  # PostgreSQL's scram_iterations.


def scram_verifier(password: str) -> str:
    """``SCRAM-SHA-256$ROUNDS:SALT$STORED:SERVER`` of a password (RFC 5803)."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", _prepared(password), salt, _ROUNDS)
    client = hmac.digest(salted, b"Client Key", "sha256")
    stored, server = hashlib.sha256(client).digest(), hmac.digest(salted, b"Server Key", "sha256")
    return f"SCRAM-SHA-256${_ROUNDS}:{_text(salt)}${_text(stored)}:{_text(server)}"


def _prepared(password: str) -> bytes:
    """As SASLprep (RFC 4013) has it; what it forbids is taken as it is, as libpq does."""
    if password.isascii():
        return password.encode()
    mapped = "".join(
        " " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c)
    )
    normal = unicodedata.normalize("NFKC", mapped)
    forbidden = any(stringprep.in_table_c21_c22(c) or stringprep.in_table_a1(c) for c in normal)
    return (password if forbidden or not normal else normal).encode()


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
