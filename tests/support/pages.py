"""What holds for every page that the package writes, and names that try to break one."""

import html.parser
import re

from maskmill.pipelines.report.templating import MAX_BYTES

HOSTILE = (
    "<script>document.title='owned'</script>",
    "</script></style></title><img src=x onerror=\"document.title='owned'\">",
    '" onmouseover="document.title=\'owned\'" x="',
    "' autofocus onfocus='document.title=1",
    "{{ 7 * 7 }}{% raw %}",
    "$^$ \\frac{",
    "javascript:document.title='owned'",
    "\u202egnp.exe\u202c \u05e9\u05dc\u05d5\u05dd",
    "a\x00b\x1b[31m\r\nc\u2028d",
    "half \udcff a character",
    "x" * 10_000,
    "<svg/onload=document.title='owned'>",
    "&lt;b&gt; &amp;&#x3c;",
    "",
)


class Tags(html.parser.HTMLParser):
    """Checks that tags nest, and collects them."""

    VOID = ("meta", "img", "br", "input", "link")

    def __init__(self, page: str):
        super().__init__()
        self.open, self.seen, self.attributes, self.ids = [], [], [], []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def assert_sound(page: bytes) -> Tags:
    """What holds for every page: small, well formed, without scripts, handlers or addresses."""
    assert len(page) < MAX_BYTES
    tags = Tags(page.decode("utf-8"))
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(tags.seen)
    assert len(tags.ids) == len(set(tags.ids))
    for name, value in tags.attributes:
        assert not name.startswith("on"), (name, value)
        if name in ("src", "href", "action", "srcset", "xlink:href"):
            assert value.startswith(("data:image/", "#")), (name, value)
    assert b"http://" not in page.replace(b"http-equiv", b"")
    assert b"https://" not in page
    policy = re.search(rb'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith(b"default-src 'none'")
    assert b"script-src" not in policy[1]
    return tags
