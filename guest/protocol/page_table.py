"""What engines of every protocol do with their records of pages when the address space changes."""

from typing import Any


class PageTable:
    """A record a page, by its number; None for pages not heard of yet."""

    _pages: list[Any]

    def forget(self, pages: range) -> None:
        """The pages were unmapped. See `Engine.forget`."""
        for page in pages:
            self._pages[page] = None

    def move(self, pages: range, to: int) -> None:
        """The pages have other numbers now. See `Engine.move`."""
        for page, number in zip(pages, range(to, to + len(pages)), strict=True):
            record, self._pages[page] = self._pages[page], None
            if record is not None:
                record.number = number
            self._pages[number] = record

    def copy(self, pages: range, to: int) -> None:
        """The pages have copies. See `Engine.copy`."""
        for page, number in zip(pages, range(to, to + len(pages)), strict=True):
            record = self._pages[page]
            self._pages[number] = record and type(record).thaw(number, record.freeze())
