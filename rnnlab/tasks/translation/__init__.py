"""Translation: a sentence in, a sentence of another length out.

An encoder reads the source, in both directions or one; a decoder says the target symbol by symbol,
with attention over what the encoder has read or from its last state alone (Sutskever et al. 2014,
Bahdanau et al. 2015, Luong et al. 2015): see `rnnlab.models.decoder`. It is trained with the true symbol
before each (teacher forcing), or now and then its own (scheduled sampling, Bengio et al. 2015), on
-log p(target) in nats per target symbol, END included.

Built in: dates as people write them, in nine ways, to ISO 8601, character by character. Real text:
data.path is a folder with parallel files NAME.LANGUAGE, .gz or not, a sentence a line; or
data.download = "multi30k" fetches Multi30k (Elliott et al. 2016). Sentences for training that have
more than train.window symbols, END included, are left out, and counted; all others are cut there.

Answers are judged by their share of exact matches and by sacreBLEU (Post 2018; tokeniser 13a, cased),
on the whole test set for a beam of eval.beam.
"""

from rnnlab.tasks.translation.task import ABOUT, READS, make_task, write_samples

__all__ = ["ABOUT", "READS", "make_task", "write_samples"]
