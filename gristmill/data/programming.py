"""Which programming language a file is in: by its name, its extension, its first line and, where that is not enough,
its content."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_TABLE = """
ada code .adb .ads
agda code .agda
apex code .apex .trigger
applescript code .applescript .scpt
arduino code .ino
assembly code .asm .s .nasm
astro markup .astro
awk code .awk .gawk @awk @gawk @mawk
batch code .bat .cmd
bazel code .bzl .bazel =BUILD =WORKSPACE
c code .c .h @tcc
clojure code .clj .cljs .cljc .edn @bb
cmake code .cmake =CMakeLists.txt
cobol code .cob .cbl .cobol .cpy
coffeescript code .coffee @coffee
common_lisp code .lisp .lsp .cl .asd @sbcl @clisp
cpp code .cpp .cc .cxx .c++ .hpp .hh .hxx .h++ .ipp .tpp .inl
crystal code .cr @crystal
csharp code .cs .csx @dotnet-script
css markup .css
cuda code .cu .cuh
cython code .pyx .pxd .pxi
d code .d .di @rdmd
dart code .dart @dart
dockerfile code .dockerfile =Dockerfile =Containerfile
eiffel code .e
elixir code .ex .exs @elixir
elm code .elm
emacs_lisp code .el
erlang code .erl .hrl .escript @escript
fish code .fish @fish
forth code .4th .fth .forth
fortran code .f .for .f77 .f90 .f95 .f03 .f08
fsharp code .fs .fsx .fsi
gdscript code .gd
glsl code .glsl .vert .frag .geom .comp
go code .go
gradle code .gradle
graphql code .graphql .gql
groovy code .groovy .gvy @groovy =Jenkinsfile
hack code .hack .hhi @hhvm
haskell code .hs .lhs .hsc @runhaskell @runghc
haxe code .hx
hcl code .hcl .tf .tfvars
hlsl code .hlsl
html markup .html .htm .xhtml
idl code .idl .webidl
idris code .idr
java code .java
javascript code .js .mjs .cjs .jsx @node @nodejs @deno @bun
jinja markup .jinja .jinja2 .j2
json data .json .jsonl .geojson .webmanifest
julia code .jl @julia
just code .just =justfile =Justfile
kotlin code .kt .kts
latex markup .tex .sty .cls .ltx
lean code .lean
less markup .less
llvm code .ll
lua code .lua @lua @luajit
make code .mk .mak =Makefile =makefile =GNUmakefile @make
markdown prose .md .markdown .mdx
mathematica code .wl .wls .nb
matlab code .m
meson code =meson.build =meson_options.txt
mojo code .mojo
nim code .nim .nims
ninja code .ninja
nix code .nix
objective_c code .mm
objective_cpp code .objcpp
ocaml code .ml .mli @ocaml @ocamlrun
octave code .oct @octave
opencl code .opencl
pascal code .pas .dpr .lpr .pp
perl code .pl .pm .pod .t @perl
php code .php .php3 .php4 .php5 .phtml .inc @php
plpgsql code .plpgsql .pgsql
postscript code .ps .eps
powershell code .ps1 .psm1 .psd1 @pwsh @powershell
prolog code .pro .prolog @swipl
protobuf code .proto
puppet code .epp
purescript code .purs
python code .py .pyi .pyw =SConstruct =SConscript =wscript @python @pypy
qml code .qml
r code .r .rmd @rscript
racket code .rkt .rktl @racket
raku code .raku .rakumod .p6 .pm6 @raku @perl6
reason code .re .rei
rst prose .rst
ruby code .rb .rake .gemspec .ru @ruby @jruby =Rakefile =Gemfile =Vagrantfile =Podfile =Fastfile =Guardfile
rust code .rs @rust-script
sass markup .sass .scss
scala code .scala .sbt .sc @scala
scheme code .scm .ss .sld @guile @scheme @chibi-scheme
shell code .sh .bash .zsh .ksh .bats @sh @bash @zsh @dash @ksh @ash =.bashrc =.profile =.zshrc =configure.ac
smalltalk code .st
solidity code .sol
sparql code .sparql .rq
sql code .sql
standard_ml code .sml .sig .fun
starlark code .star
svelte markup .svelte
svg data .svg
swift code .swift @swift
systemverilog code .sv .svh
tcl code .tcl .tk @tclsh @wish @expect
text prose .txt
thrift code .thrift
toml data .toml
typescript code .ts .tsx .mts .cts @ts-node @tsx
vala code .vala .vapi
vb code .vb .vbs .bas
verilog code .v .vh
vhdl code .vhd .vhdl
vim code .vim =.vimrc
vlang code
vue markup .vue
wasm code .wat .wast
wgsl code .wgsl
xml data .xml .xsd .xsl .xslt .plist .csproj .props .targets .resx .ui
coq code
mercury code
yaml data .yaml .yml
yacc code .y .yy
lex code .l .lex
zig code .zig
"""
KINDS: dict[str, str] = {}
"""Language -> code (programs), markup (pages, styles), prose (documentation) or data."""
_ENDINGS: dict[str, str] = {}
_NAMES: dict[str, str] = {}
_INTERPRETERS: dict[str, str] = {}
for _line in _TABLE.split("\n"):
    if _line:
        _language, _kind, *_signs = _line.split()
        KINDS[_language] = _kind
        for _sign in _signs:
            {"=": _NAMES, "@": _INTERPRETERS}.get(_sign[0], _ENDINGS)[_sign.lstrip("=@")] = _language

PROGRAMMING = frozenset(name for name, kind in KINDS.items() if kind in ("code", "markup"))
"""Values of `language` that mean code."""

_SHEBANG = re.compile(r"#!\s*(?:\S*/)?([^/\s]+)(?:[ \t]+(.*))?")
_MODE = re.compile(r"-\*-.*?(?:mode:\s*)?([\w+#-]+)\s*(?:;.*)?-\*-|\bvim?:.*?\b(?:ft|filetype|syntax)=(\w+)")
_MODE_NAMES = {"c++": "cpp", "js": "javascript", "js2": "javascript", "sh": "shell", "bash": "shell", "cperl": "perl",
               "objc": "objective_c", "makefile": "make", "lisp": "common_lisp", "emacs-lisp": "emacs_lisp",
               "f90": "fortran", "octave": "matlab", "prolog": "prolog", "cs": "csharp", "tex": "latex"}
_SAMPLE = 32_768

_RULES: dict[str, list[tuple[str, str]]] = {
    ".h": [
        ("objective_c", r"^\s*(?:@(?:interface|protocol|property|class|end|import)\b|#import\s)"),
        ("cpp", (r"^\s*(?:template\s*<|class\s+\w+[^;()]*[{:]|namespace\s+\w*|using\s+(?:namespace\b|\w+\s*=)|"
                r"(?:public|private|protected)\s*:|virtual\s|constexpr\s)|\bstd::\w|^\s*#\s*include\s*<"
                r"(?:string|vector|map|memory|iostream|algorithm|functional|utility|c(?:stdint|stddef|string))>")),
    ],
    ".m": [
        ("objective_c", r"^\s*(?:@(?:interface|implementation|import|protocol|class|end)\b|#\s*(?:import|include)\s)"),
        ("mercury", r"^:-\s*(?:module|pred|func|interface|implementation)\b"),
        ("mathematica", r"^\s*\(\*|\w+\[[^\]\n]*_\]\s*:?=|^\s*BeginPackage\["),
    ],
    ".pl": [
        ("perl", r"^\s*(?:use\s+(?:strict|warnings|v?5|[A-Z]\w+)|package\s+\w|(?:my|our|local)\s+[$@%(]|sub\s+\w+)|=~"),
        ("raku", r"^\s*(?:use\s+v6|(?:my|multi|proto)\s+(?:sub|class|method)\b)"),
        ("prolog", r"^\s*:-\s*\w|^[a-z]\w*\([^)\n]*\)\s*(?::-|\.\s*$)|^[a-z]\w*\s*:-"),
    ],
    ".v": [
        ("coq", r"^\s*(?:Require|Theorem|Lemma|Definition|Proof|Inductive|Fixpoint|Section|Qed)\b"),
        ("verilog", r"^\s*(?:module\s+\w+\s*(?:#\s*)?[(;]|`(?:define|include|timescale|ifdef)|endmodule|always\s*@)"),
        ("vlang", r"^\s*(?:pub\s+)?fn\s+(?:\([^)]*\)\s*)?\w+\s*\(|^module\s+\w+\s*$"),
    ],
    ".ts": [("xml", r"^\s*(?:<\?xml|<!DOCTYPE TS|<TS\b)")],
    ".rs": [("xml", r"^\s*<\?xml")],
    ".fs": [
        ("glsl", r"^\s*(?:#version\s+\d|(?:uniform|varying|attribute|precision)\s)|\bgl_FragColor\b"),
        ("forth", r"^\s*(?:: \S+ .*;|\\ |VARIABLE\s)"),
    ],
    ".cls": [
        ("apex", r"^\s*(?:public|private|global)\s+(?:(?:with|without)\s+sharing\s+|virtual\s+|abstract\s+)*class\b"),
        ("vb", r"^\s*(?:VERSION\s+1\.0\s+CLASS|Attribute\s+VB_|Option\s+Explicit)"),
    ],
    ".cl": [("opencl", r"\b__?(?:kernel|global|local)\b|^\s*kernel\s+void\b")],
    ".pro": [
        ("prolog", r"^\s*:-\s*\w|^[a-z]\w*\([^)\n]*\)\s*:-"),
        ("qmake", r"^\s*(?:TEMPLATE|TARGET|SOURCES|HEADERS|QT|CONFIG)\s*[+\-]?="),
        ("idl", r"^\s*(?:pro|function)\s+\w+\s*,|^\s*end\s*$"),
    ],
    ".pp": [
        ("pascal", r"^\s*(?:unit|program|interface|uses|begin)\b[^{\n]*;?\s*$"),
        ("puppet", r"^\s*(?:class|define|node|include)\s+[\w:'\"]+|=>"),
    ],
    ".t": [("raku", r"^\s*use\s+v6"), ("perl", r"^\s*(?:use\s+\w|my\s+[$@%])"), ("terra", r"^\s*terra\s+\w")],
    ".inc": [
        ("php", r"<\?php"),
        ("pascal", r"^\s*\{\$|\bprocedure\b|\bend;\s*$"),
        ("assembly", r"^\s*(?:%macro|\.(?:macro|global|equ)\b|[A-Z_]+\s+(?:EQU|DB|DW)\s)"),
        ("cpp", r"^\s*#\s*(?:include|define|if)"),
    ],
    ".sc": [("supercollider", r"^\s*(?:\w+\s*:\s*\w+\s*\{|SynthDef|\*\w+\s*\{)|\.(?:ar|kr)\b"), ("scala", r"^")],
    ".f": [("forth", r"^\s*: \S+ .*;|^\\ "), ("fortran", r"^")],
    ".d": [("make", r"^[^\s:]+\.o\s*:\s"), ("d", r"^")],
    ".e": [("eiffel", r"^\s*(?:class|feature|inherit|note)\b"), ("c", r"^\s*#\s*include")],
    ".st": [("smalltalk", r"^\s*!?\w+\s+(?:class\s+)?(?:methodsFor|subclass):|^\s*\"")],
    ".inl": [("cpp", r"^")],
    ".ml": [("standard_ml", r"^\s*(?:structure|signature|functor)\s+\w+"), ("ocaml", r"^")],
    ".r": [("rebol", r"^\s*rebol\b"), ("r", r"^")],
    ".sql": [("plpgsql", r"\blanguage\s+'?plpgsql|\$\$\s*(?:declare|begin)\b"), ("sql", r"^")],
    ".ps": [("postscript", r"^%!PS")],
    ".y": [("yacc", r"^%%|^%(?:token|type|start|union)\b")],
    ".l": [("lex", r"^%%|^%(?:option|x|s)\b"), ("common_lisp", r"^\s*\((?:defun|defmacro|in-package)\b")],
    ".ui": [("xml", r"^\s*<")],
    ".gd": [("gdscript", r"^\s*(?:extends|func|var|signal|class_name|tool|@)")],
    ".mm": [("objective_cpp", r"^")],
    ".txt": [("cmake", r"^\s*cmake_minimum_required\s*\("), ("text", r"^")],
}
_FALLBACK = {".h": "c", ".m": "matlab", ".pl": "perl", ".v": "verilog", ".cls": "latex", ".pp": "pascal"}
_COMPILED = {ending: [(language, re.compile(pattern, re.MULTILINE | re.IGNORECASE if ending in (".sql", ".pp", ".r")
                                            else re.MULTILINE)) for language, pattern in rules]
             for ending, rules in _RULES.items()}
for _rules in _RULES.values():
    for _name, _ in _rules:
        KINDS.setdefault(_name, "code")
PROGRAMMING |= {name for name, kind in KINDS.items() if kind == "code"}


def language_of(name: str, text: str) -> str | None:
    """The language of a file, None if it is unknown.

    In order: an editor's mode line or the `#!` line; the file's whole name; its extension, with rules over the content
    where several languages share it (.h, .m, .pl, .v, .ts ...).
    """
    head = text[:_SAMPLE]
    path = PurePosixPath(name)
    if found := _stated(head):
        return found
    if path.name in _NAMES:
        return _NAMES[path.name]
    if path.name.startswith(("Dockerfile.", "Makefile.")):
        return "dockerfile" if path.name.startswith("D") else "make"
    ending = path.suffix
    if ending in (".S", ".C", ".H", ".F"):
        return {".S": "assembly", ".C": "cpp", ".H": "cpp", ".F": "fortran"}[ending]
    ending = ending.lower()
    for language, rule in _COMPILED.get(ending, ()):
        if rule.search(head):
            return language
    return _FALLBACK.get(ending) or _ENDINGS.get(ending)


def known_name(name: str) -> bool:
    """Could a file of this name hold a known language? Without an extension it may have a `#!` line."""
    path = PurePosixPath(name)
    return path.suffix == "" or path.name in _NAMES or path.suffix.lower() in _ENDINGS or path.name.startswith(
        ("Dockerfile.", "Makefile."))


def _stated(head: str) -> str | None:
    """What the first lines say themselves."""
    if head.startswith("#!"):
        match = _SHEBANG.match(head.split("\n", 1)[0])
        words = [match[1], *(match[2] or "").split()] if match else []
        for word in words:
            program = re.sub(r"[\d.]+$", "", word.rpartition("/")[2].lower())
            if program != "env" and not word.startswith("-") and "=" not in word:
                return _INTERPRETERS.get(program)
    if "-*-" in head[:500] or "vim" in head[:500]:
        for line in head[:500].split("\n")[:3]:
            if match := _MODE.search(line):
                mode = (match[1] or match[2]).lower()
                mode = _MODE_NAMES.get(mode, mode)
                if KINDS.get(mode) in ("code", "markup"):
                    return mode
    return None
