"""The words right before a number that say what it is: many numbers are a phone's or an order's by nothing else."""

from string import ascii_lowercase
from typing import Final

_REACH: Final = 40
_SIGNS: Final = " \t\n:=#'\"(/,.-：，"
#: what may stand between such a word and its number
_FILLERS: Final = frozenset(
    "number numbers code no nr at on is was me us my your him her them the to out".split()  # noqa: SIM905
)
_CHINESE_FILLERS: Final = ("号码", "号", "码", "是", "为", "我", "您", "你", "的", "请")
_WORDS: Final = {
    "phone": frozenset(
        {
            *("phone", "phones", "telephone", "tel", "mobile", "cell", "cellphone", "call", "called", "calling"),
            *("whatsapp", "wechat", "sms", "text", "fax", "dial", "contact", "reach", "ring", "hotline", "telefon"),
        }
    ),
    "numbered": frozenset(
        {
            *("order", "invoice", "ref", "reference", "tracking", "ticket", "case", "sku", "serial", "item", "article"),
            *("id", "parcel", "booking", "transaction", "batch", "model", "part", "shipment", "receipt", "policy"),
            *("version", "qty", "quantity", "isbn"),
        }
    ),
    "version": frozenset(
        {
            *("version", "versions", "ver", "v", "release", "build", "firmware", "sdk", "update", "updated", "upgrade"),
            *("upgraded", "section", "chapter", "clause"),
        }
    ),
    "secret": frozenset[str](),
}
_ENDS: Final = {
    "phone": ("电话", "手机", "致电", "联系方式", "联系", "座机", "热线", "传真", "拨打", "短信", "微信", "来电"),
    "numbered": ("订单", "单", "编号", "流水", "序列", "版本", "批次", "货", "型", "条", "工", "券", "票"),
    "version": ("§", "版本", "升级到", "更新到", "固件", "章", "节", "第"),
    "secret": (
        *("key", "token", "secret", "password", "passwd", "pwd", "bearer", "authorization", "credential"),
        *("密钥", "秘钥", "令牌", "口令", "密码"),
    ),
}


def follows(text: str, start: int, cue: str) -> bool:
    """True if the words right before a place are those of ``phone``, ``numbered`` (an order), ``version`` or ``secret``."""
    before = text[max(0, start - _REACH) : start].lower()
    while True:
        before = before.rstrip(_SIGNS)
        if before.endswith(_ENDS[cue]):
            return True
        head = before.rstrip(ascii_lowercase)
        word = before[len(head) :]
        if word in _WORDS[cue]:
            return True
        if word in _FILLERS:
            before = head
        elif not word and (filler := next((end for end in _CHINESE_FILLERS if before.endswith(end)), "")):
            before = before.removesuffix(filler)
        else:
            return False
