"""Main content from HTML: what a page says, without what its site repeats around it.

In: HTML as text (bytes are decoded before, see `formats/text.py`). Out: plain text or Markdown, title, language, date.
`main_text` and `extract` are for everybody; `segment` -> `features` -> `Classifier` -> `render` are the steps behind
them, and `fit.py` finds the classifier's weights anew. Uses `core` only.
"""

from gristmill.data.extract.content import Extracted, content_blocks, extract, main_text

__all__ = ["Extracted", "content_blocks", "extract", "main_text"]
