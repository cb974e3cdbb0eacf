"""Read the tables and texts of a report."""

from __future__ import annotations

from html.parser import HTMLParser

__all__ = ["ReportParser", "parse_report"]


class ReportParser(HTMLParser):
    """Collects tables by caption, headings, scripts, and attributes that could run or load something."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[str]]] = {}
        """Rows of texts by caption; a repeated caption gets a number."""
        self.headings: list[tuple[int, str]] = []
        self.scripts: list[str] = []
        self.unsafe: list[str] = []
        self.labels: list[str] = []
        self.captions: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self._caption = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "input", "br"):
            self._open.append(tag)
        for name, value in attributes:
            loads = name in ("src", "href", "action") and not (value or "").startswith(("#", "data:"))
            if name.startswith("on") or loads:
                self.unsafe.append(f"{tag} {name}={value}")
            if name == "aria-label" and ("role", "img") in attributes:
                self.labels.append(value or "")
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")
        elif tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self.headings.append((int(tag[1]), ""))
        elif tag == "script":
            self.scripts.append("")
        elif tag == "figcaption":
            self.captions.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass
        if tag == "table":
            name, number = self._caption, 2
            while name in self.tables:
                name, number = f"{self._caption} {number}", number + 1
            self.tables[name] = self._rows

    def handle_data(self, data: str) -> None:
        if "script" in self._open:
            self.scripts[-1] += data
            return
        if "style" not in self._open:
            self.text.append(data)
        if "caption" in self._open:
            self._caption += data
        elif {"td", "th"} & set(self._open) and self._rows:
            separator = " | " if {"small", "span"} & set(self._open) and self._rows[-1][-1] else ""
            self._rows[-1][-1] += separator + data.strip() if data.strip() else ""
        if "figcaption" in self._open:
            self.captions[-1] += data
        if self._open and self._open[-1] in ("h1", "h2", "h3", "h4", "h5", "h6"):
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)


def parse_report(html: str) -> ReportParser:
    """Parse a page."""
    parser = ReportParser()
    parser.feed(html)
    return parser
