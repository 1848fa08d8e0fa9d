"""Icons as inline SVG, so that the page needs no icon font."""

from __future__ import annotations

_PATHS = {
    "send": '<path d="M12 19V5M5.5 11.5 12 5l6.5 6.5"/>',
    "stop": '<rect x="7" y="7" width="10" height="10" rx="2" fill="currentColor" stroke="none"/>',
    "new": '<path d="M12 5v14M5 12h14"/>',
    "panel": '<path d="M4 7h9M17 7h3M4 17h3M11 17h9"/><circle cx="15" cy="7" r="2"/><circle cx="9" cy="17" r="2"/>',
    "theme": '<circle cx="12" cy="12" r="8"/><path d="M12 4a8 8 0 0 1 0 16z" fill="currentColor"/>',
    "copy": '<rect x="9" y="9" width="10" height="10" rx="2.5"/>'
            '<path d="M15 9V7a2 2 0 0 0-2-2H7a2 2 0 0 0-2 2v6a2 2 0 0 0 2 2h2"/>',
    "again": '<path d="M19 12a7 7 0 1 1-2.2-5.1"/><path d="M19.5 3.8v4h-4"/>',
    "edit": '<path d="M5 19h3.2L18.6 8.6a2.2 2.2 0 0 0-3.2-3.2L5 15.8z"/>',
    "up": '<path d="M8 20V10.5l3.6-6.6a1.7 1.7 0 0 1 3.1 1.2L14 9h4.4a1.8 1.8 0 0 1 1.8 2.2l-1.5 7A2.3 2.3 0 0 1 '
          '16.4 20zM8 11H5.3A1.3 1.3 0 0 0 4 12.300v6.400A1.3 1.3 0 0 0 5.3 20H8"/>',
    "back": '<path d="m14 6-6 6 6 6"/>',
    "next": '<path d="m10 6 6 6-6 6"/>',
    "close": '<path d="m6 6 12 12M18 6 6 18"/>',
    "mark": '<circle cx="12" cy="12" r="8.5"/><circle cx="12" cy="12" r="1.8" fill="currentColor"/>'
            '<path d="M12 3.500c3 2.3 3 4.6 0 6.700M20.5 12c-2.3 3-4.6 3-6.7 0M12 20.500c-3-2.3-3-4.6 0-6.700M3.5 '
            '12c2.3-3 4.6-3 6.7 0"/>',
}
_PATHS["down"] = f'<g transform="rotate(180 12 12)">{_PATHS["up"]}</g>'


def icon(name: str) -> str:
    """An SVG in the colour of the text around it; hidden from screen readers, which read the button's label."""
    return ('<svg viewBox="0 0 24 24" width="1em" height="1em" fill="none" stroke="currentColor" stroke-width="1.7" '
            f'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">{_PATHS[name]}</svg>')


FAVICON = ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24"><rect width="24" height="24" rx="6" '
           f'fill="#a8612a"/><g fill="none" stroke="#fff" stroke-width="1.5">{_PATHS["mark"]}</g></svg>')
