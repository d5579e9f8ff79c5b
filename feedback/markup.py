"""HTML that a mail program or a text field left around what somebody wrote: taken off where it is markup without doubt.

"a < b", "<order number>" and a lone "<b>" stay: only a pair of tags that belong together, or a tag that stands alone in HTML
("<br>"), shows that a text is HTML. Then tags that HTML knows go, scripts with what is in them, and entities are read.
"""

import html
import re
from typing import Final

_BLOCKS: Final = "address|article|blockquote|body|br|dd|div|dl|dt|footer|form|h[1-6]|head|header|hr|html|li|main|ol|p|pre|section|table|tbody|td|tfoot|th|thead|title|tr|ul"  # fmt: skip  # noqa: E501
_INLINES: Final = "a|abbr|b|big|cite|code|del|em|font|i|img|ins|kbd|label|link|mark|meta|o:p|q|s|small|span|strike|strong|sub|sup|tt|u|var"  # fmt: skip  # noqa: E501
_ALONE: Final = frozenset({"br", "hr", "img"})
_TAG: Final = re.compile(rf"<(/?)({_BLOCKS}|{_INLINES})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_BLOCK: Final = re.compile(rf"</?(?:{_BLOCKS})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_HIDDEN: Final = re.compile(r"<(?:(!--)|!doctype\b|(script|style)\b)", re.IGNORECASE)


def strip_markup(text: str) -> str:
    """The text without HTML where it is HTML, lines where its blocks were; any other text as it is."""
    if "<" not in text or not _is_html(text):
        return text
    return html.unescape(_TAG.sub("", _BLOCK.sub("\n", _without_hidden(text))))


def _without_hidden(text: str) -> str:
    """Without comments, scripts and styles; one pass, however often they begin and never end."""
    folded, place = text.lower(), 0
    pieces: list[str] = []
    while found := _HIDDEN.search(text, place):
        end = "-->" if found[1] else f"</{found[2].lower()}" if found[2] else ">"
        close = folded.find(end, found.end())
        close = folded.find(">", close) if close >= 0 else -1
        if close < 0:
            break
        pieces += (text[place : found.start()], " ")
        place = close + 1
    return "".join(pieces) + text[place:]


def _is_html(text: str) -> bool:
    opened: set[str] = set()
    for slash, name in _TAG.findall(text):
        if name.lower() in (opened if slash else _ALONE):
            return True
        opened.add(name.lower())
    return False
