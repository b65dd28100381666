"""Lines that native code writes to standard error whatever its log level is, and nobody needs."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

# How they begin: LiteRT's when it loads a network, and its converter's for int8.
NOTES = (b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU", b"fully_quantize: ")


@contextlib.contextmanager
def without_notes() -> Iterator[None]:
    """Holds back what is written to standard error, and lets all but the notes out at the end.

    Also at the end by an exception. It is for the whole process, so that one thread at a time may
    use it.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        real = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            for line in held:
                if not line.startswith(NOTES):
                    os.write(2, line)
