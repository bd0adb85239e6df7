"""Next-symbol prediction over a text: many-to-many in step.

Training reads B parallel streams of the text window by window and carries the hidden state from
window to window (truncated BPTT), or independent windows from a zero state. Validation reads the
whole held-out text statefully, every target once, and puts nanoGPT's estimate from random windows
beside it.
"""

from rnnlab.tasks.language_model.task import ABOUT, READS, make_task
from rnnlab.tasks.language_model.text import write_samples

__all__ = ["ABOUT", "READS", "make_task", "write_samples"]
