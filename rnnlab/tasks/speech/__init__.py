"""Speech to text: what is said in a sound, by a bidirectional network trained with CTC.

Graves et al. 2006: the network reads log-mel features and says for every step how probable each
symbol or the blank is; `ctc` sums over all ways to align a text with that. The loss is -ln
p(text | sound) in nats a symbol of the text; the error is that of the field, edits a character (CER)
or a word (WER) of the true text, by jiwer. config.data.source is one of

morse: built in, Morse code with noise, a pitch and a speed that waver (`morse`), at data.snr dB.
    Every utterance is drawn anew, training, validation and test from different numbers. Symbols are
    letters, digits and the space.
fsdd: strings of data.shortest to data.longest spoken digits, clips of one speaker after each other, from
    the Free Spoken Digit Dataset: data.path is a folder with its {digit}_{speaker}_{index}.wav, 8 kHz.
    Between clips, before and after them are 0.05 to 0.25 s of faint noise. What does not fit into
    train.window steps is left away at the end of a string. Indices 0 to 4 are the test (the data
    set's own split), 5 to 9 validation, the others training; with data.speaker all clips of that
    speaker are the test, and no other clip of theirs is heard before. A word is a digit. Training may
    vary what it hears: data.speed, data.noise and data.mask.

A step of the network is data.stack frames side by side; train.window is the most steps that an
utterance has. Who hears nothing gives every step the same probabilities: the baseline of the loss.
The trivial answer is the one constant text with the fewest errors, chosen with the true texts known.
"""

from rnnlab.tasks.speech.task import ABOUT, READS, make_task

__all__ = ["ABOUT", "READS", "make_task"]
