"""How a page ends early: with nothing more to show, and the rest of the run still to do.

`st.stop()` would end the whole run, and with it what the router does after a page.
"""

from typing import NoReturn


class PageEnd(BaseException):
    """No error: the page has nothing more to show. Derives from BaseException so that `except Exception`
    does not catch it."""


def end_page() -> NoReturn:
    raise PageEnd
