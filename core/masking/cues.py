"""The words right before a number that say what it is: many numbers are a phone's or an order's by nothing else."""

import re
from typing import Final

_REACH: Final = 40
#: what may stand between such a word and its number
_FILLER: Final = (
    r"""(?:[\s:=#'"(/,.-]|numbers?\b|code\b|no\b|nr\b|at\b|on\b|is\b|was\b|me\b|us\b|my\b|your\b|him\b|her\b|them\b|the\b|"""
    r"号码|号|码|是|为|我|您|你|的|请|：|，)*\Z"
)
_PHONE: Final = (
    r"\b(?:tele)?phones?|\btel|\bmobile|\bcell(?:phone)?|\bcall(?:ed|ing)?|\bwhats ?app|\bwechat|\bsms|\btext|\bfax|\bdial|"
    r"\bcontact|\breach(?: out to)?|\bring|\bhotline|电话|手机|致电|联系方式|联系|座机|热线|传真|拨打|短信|微信|来电"
)
_NUMBERED: Final = (
    r"\border|\binvoice|\bref(?:erence)?|\btracking|\bticket|\bcase|\bsku|\bserial|\bitem|\barticle|\bid|\bparcel|"
    r"\bbooking|\btransaction|\bbatch|\bmodel|\bpart|\bshipment|\breceipt|\bpolicy|\bversion|\bqty|\bquantity|"
    r"订单|单|编号|流水|序列|版本|批次|货|型|条|工|券|票"
)
_VERSION: Final = (
    r"\bversions?|\bver|\bv|\brelease|\bbuild|\bfirmware|\bsdk|\bupdate(?:d)?(?: to)?|\bupgrade(?:d)?(?: to)?|"
    r"\bsection|\bchapter|\bclause|§|版本|升级到|更新到|固件|章|节|第"
)
_KEY: Final = r"key|token|secret|passw(?:or)?d|pwd|bearer|authorization|credentials?|密钥|秘钥|令牌|口令|密码"


def _before(words: str) -> re.Pattern[str]:
    return re.compile(f"(?:{words}){_FILLER}", re.IGNORECASE | re.ASCII)


_CUES: Final = {
    "phone": _before(_PHONE),
    "numbered": _before(_NUMBERED),
    "version": _before(_VERSION),
    "secret": _before(_KEY),
}


def follows(text: str, start: int, cue: str) -> bool:
    """True if the words right before a place are those of ``phone``, ``numbered`` (an order, say), ``version``, ``secret``."""
    return _CUES[cue].search(text[max(0, start - _REACH) : start]) is not None
