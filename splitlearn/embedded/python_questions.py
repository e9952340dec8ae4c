"""Questions and answers from the docstrings of Python's own standard library."""

from __future__ import annotations

import inspect
from importlib import import_module
from types import ModuleType

# Modules that are written in Python, import quickly and without side effects, and exist on every platform.
_MODULES = """
abc argparse ast base64 bdb bisect calendar cmd codecs collections colorsys configparser contextlib copy csv dataclasses
datetime decimal difflib dis email.message email.utils enum filecmp fileinput fnmatch fractions ftplib functools gettext glob
graphlib gzip heapq hmac html http.client http.cookies imaplib inspect io ipaddress itertools json keyword linecache locale
logging mailbox math mimetypes netrc numbers operator optparse os pathlib pdb pickle pkgutil platform plistlib poplib
pprint profile queue quopri random re reprlib sched secrets selectors shelve shlex shutil smtplib socket socketserver
stat statistics string struct subprocess symtable sys sysconfig tarfile tempfile textwrap threading time timeit tokenize
trace traceback types unittest unittest.mock urllib.parse urllib.request urllib.robotparser uuid warnings wave weakref
webbrowser xml.dom.minidom xml.etree.ElementTree xmlrpc.client zipfile zipimport
""".split()  # noqa: SIM905
_SHORTEST = 40


def read_python_questions() -> dict[str, list[str]]:
    """Return questions about Python's standard library with their answers, about 1500 of each.

    Source: the docstrings of the running Python's own modules, under the PSF licence.

    Returns:
        The columns ``prompt`` and ``completion``.
    """
    question_of: dict[str, str] = {}
    for name in _MODULES:
        module = import_module(name)
        for answer, question in _questions(module).items():
            # An answer that several modules share gets one question.
            question_of.setdefault(answer, question)
    return {"prompt": list(question_of.values()), "completion": list(question_of)}


def _questions(module: ModuleType) -> dict[str, str]:
    questions = {}
    for name, member in sorted(vars(module).items()):
        if name.startswith("_") or getattr(member, "__module__", module.__name__) != module.__name__:
            continue
        for path, documented in ((name, member), *_methods(name, member)):
            answer = _first_paragraph(documented)
            if len(answer) >= _SHORTEST:
                kind = "class" if inspect.isclass(documented) else "method" if "." in path else "function"
                questions[answer] = f"What does the {kind} {path} of Python's module {module.__name__} do?"
    return questions


def _methods(name: str, owner: object) -> list[tuple[str, object]]:
    if not inspect.isclass(owner):
        return []
    methods = [(method, member) for method, member in sorted(vars(owner).items()) if inspect.isfunction(member)]
    return [(f"{name}.{method}", member) for method, member in methods if not method.startswith("_")]


def _first_paragraph(member: object) -> str:
    if not (inspect.isroutine(member) or inspect.isclass(member)):
        return ""
    text = inspect.cleandoc(member.__doc__ or "").split("\n\n")[0]
    # Skip docstrings that only repeat the signature, or begin with it.
    return "" if "(" in text.split("\n")[0].split(" ")[0] else " ".join(text.split())
