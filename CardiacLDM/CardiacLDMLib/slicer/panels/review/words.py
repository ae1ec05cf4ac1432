"""What the Review panel says of the case that is looked at."""

from __future__ import annotations

import html

from slicer.i18n import tr as _

from ....review.sources import package_of
from .loading import CaseLoader
from .session import Session

#: Letters of a name that a narrow panel has room for.
LONGEST_NAME = 28


def title(session: Session | None, name: str | None) -> str:
    """Return the name of a case and its place in the list."""
    if session is None or name is None:
        return _("No case is chosen.")
    place = ""
    if name in session.names:
        place = _("{n} of {total}").format(n=session.names.index(name) + 1, total=len(session.names))
    words = html.escape(name) if len(name) <= LONGEST_NAME else f"{html.escape(name[:LONGEST_NAME])}&#8230;"
    return f"<b>{words}</b> ({place})" if place else f"<b>{words}</b>"


def state(session: Session | None, loader: CaseLoader | None, name: str | None, on_screen: bool) -> str:
    """Return what to know about a case: what is missing, what has changed, how far its checks are."""
    if session is None or loader is None or name is None:
        return ""
    if not on_screen:
        return _("Reading the case")
    lines = []
    if session.worklist.status(name).is_outdated:
        lines.append(_("The labels have changed since your verdict, which is outdated."))
    if not loader.nodes[name].has_image:
        lines.append(_("There is no CT with these labels."))
    why = loader.why_unchecked(name)
    if why:
        lines.append(why)
    elif loader.findings(name) is None:
        lines.append(_("Checking the labels"))
    elif not loader.findings(name):
        lines.append(_("The checks found nothing."))
    return "\n".join(lines)


def origin(session: Session | None, name: str | None) -> str:
    """Return the whole name of a case, and which model package made its labels if it is known."""
    if session is None or name is None:
        return ""
    package = package_of(session.worklist[name])
    return "\n".join([name, *([_("Labels of {package}").format(package=package)] if package else [])])
