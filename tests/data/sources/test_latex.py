import gzip
import io
import tarfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.documents import Document, Reject
from gristmill.data.formats.latex_text import LatexText, definitions, without_comments
from gristmill.data.sources.latex import Latex

MAIN = r"""\documentclass[a4paper]{article} % a comment
\usepackage{amsmath}
\newcommand{\R}{\mathbb{R}}
\newcommand{\vect}[2][v]{\mathbf{#1}_{#2}}
\def\mill#1{the mill of #1}
\title{On \emph{Mills}}
\author{Ann M\"uller\thanks{Funded.} \and Bob \O re}
\begin{document}
\maketitle
\begin{abstract}
We grind grain at 100\% speed.
% a whole line
It works.
\end{abstract}
\section{Introduction}\label{sec:intro}
As shown \cite{a,b}~\citep[p.~3]{c}, in Section~\ref{sec:intro}, \mill{Ann} is ``fast'' -- \textbf{very}.
Let $x \in \R$ and $\vect{1}$:
\begin{equation}\label{e}
  E = \vect[w]{i}
\end{equation}
\input{parts/two}
\input{../../../etc/passwd}
\begin{figure}\includegraphics{f}\caption{A mill \textit{turns}.}\end{figure}
\begin{verbatim}
100% \kept
\end{verbatim}
\iffalse hidden \ifx a b \fi \fi
\begin{itemize}\item one \item two\end{itemize}
\begin{thebibliography}{9}\bibitem{a} Not this.\end{thebibliography}
\end{document}
behind
"""
TEXT = r"""# On Mills

## Abstract

We grind grain at 100% speed. It works.

## Introduction

As shown [cite], in Section [ref], the mill of Ann is “fast” – very. Let $x \in \mathbb{R}$ and $\mathbf{v}_{1}$:

$$E = \mathbf{w}_{i}$$

The second part.

A mill turns.

100% \kept

- one
- two"""


def tar_of(files: dict[str, bytes]) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return held.getvalue()


PAPER = tar_of({"paper.tex": MAIN.encode(), "parts/two.tex": b"The second part.\n\\input{paper}", "f.png": b"\x89"})


def read(path: Path | str, **options: object) -> tuple[list[Document], list[Reject]]:
    source = Latex(path=str(path), **options)  # type: ignore[arg-type]
    items = [item for entry in source.inputs() for part in source.ranges(entry, 1000)
             for item in source.read(part, "latex")]
    return [i for i in items if isinstance(i, Document)], [i for i in items if isinstance(i, Reject)]


def plain(text: str) -> str:
    body, macros = definitions(without_comments(text))
    return LatexText(macros, math=True).of(body)


def test_a_paper(tmp_path: Path) -> None:
    (tmp_path / "2101.00001v2.tar.gz").write_bytes(gzip.compress(PAPER))
    documents, rejects = read(tmp_path)
    assert not rejects
    assert documents[0].text == TEXT
    assert documents[0].metadata == {
        "path": "2101.00001v2.tar.gz", "license": "unknown", "arxiv": "2101.00001", "time": "2021-01",
        "url": "https://arxiv.org/abs/2101.00001", "group": "arxiv-2101.00001", "title": "On Mills",
        "author": "Ann Müller; Bob Øre"}
    assert "$" not in read(tmp_path, math="drop")[0][0].text


def test_bulk_archives_single_files_and_what_is_no_latex(tmp_path: Path) -> None:
    (tmp_path / "bulk.tar").write_bytes(tar_of({
        "9901/astro-ph9901001.gz": gzip.compress(MAIN.encode()), "9901/2.gz": gzip.compress(PAPER),
        "9901/3.gz": gzip.compress(b"%!PS-Adobe"), "9901/4.pdf": b"%PDF", "9901/5.gz": gzip.compress(PAPER)[:-20],
        "9901/6.gz": gzip.compress(tar_of({"a.tex": b"only \\text"})[:512])}))
    (tmp_path / "one.tex").write_text(MAIN)
    documents, rejects = read(tmp_path)
    assert [d.id for d in documents] == ["latex/bulk.tar/9901/astro-ph9901001.gz", "latex/bulk.tar/9901/2.gz",
                                         "latex/one.tex"]
    assert documents[0].metadata["arxiv"] == "astro-ph/9901001"
    assert documents[0].metadata["time"] == "1999-01"
    assert [r.reason for r in rejects] == ["not_latex", "truncated_archive", "truncated_archive"]


def test_macros_and_includes_have_limits(tmp_path: Path) -> None:
    assert plain(r"\newcommand{\a}{\a\a} x \a y").startswith("x")
    bomb = "".join(rf"\newcommand{{\{chr(98 + n)}}}{{\{chr(97 + n)}\{chr(97 + n)}\{chr(97 + n)}}}" for n in range(20))
    assert len(plain(rf"\newcommand{{\a}}{{ha}}{bomb} \u")) < 10_000_000
    files = {f"{n}.tex": f"\\input{{{n + 1}}}\\input{{{n + 1}}}".encode() for n in range(30)}
    files["main.tex"] = b"\\documentclass{a}\\begin{document}\\input{0}text\\end{document}"
    (tmp_path / "a.tar").write_bytes(tar_of(files))
    assert [r.reason for r in read(tmp_path)[1]] == ["too_large"]
    assert plain("{" * 100_000 + "deep" + "}" * 100_000) == "deep"


def test_a_source_of_200_mb_is_told(tmp_path: Path) -> None:
    with (tmp_path / "a.tex").open("wb") as file:
        file.truncate(200 << 20)
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"x" * (20 << 20)))
    (tmp_path / "c.tex").write_bytes(b"")
    assert [r.reason for r in read(tmp_path)[1]] == ["too_large", "too_large", "no_main_file"]


def test_accents_quotes_and_unknown_commands() -> None:
    assert plain(r"\'etude \c{c}a Erd\H{o}s \~{n} na\"{\i}ve \ss{} \AA") == "étude ça Erdős ñ naïve ß Å"
    assert plain(r"\unknown{kept} and \textcolor{red}{red} \url{http://a.b/c_d} \href{http://x}{here}") == (
        "kept and red http://a.b/c_d here")
    assert plain("a 5\\$ b and $unclosed\n\nnext") == "a 5$ b and unclosed\n\nnext"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["\\", "{", "}", "$", "%", "[", "]", "\\begin{x}", "\\end{x}", "\\newcommand", "\\a",
                                 "#1", "\\section", "\\caption{", "\\begin{figure}", "\n\n", "word ", "\\iffalse",
                                 "\\fi"])))
def test_nothing_raises(pieces: list[str]) -> None:
    assert isinstance(plain("".join(pieces)), str)
