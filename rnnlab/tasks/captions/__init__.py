"""Image captioning, "show and tell": what is in a picture, in words (Vinyals et al. 2015).

A small convolutional encoder, or one dense layer on features computed beforehand, gives the decoder its
first state. With decoder.attention it also looks at the places of the encoder's last map at every word
(Xu et al. 2015); a vector learned for each place is added there, since "left" and "top" are words. What
the first state is made of is normalised as by a layer norm without gains.

While training, a word that the decoder reads is blanked with a probability of decoder.word_dropout
(Bowman et al. 2016), so that it looks at the picture and does not learn which words never go together.

The loss is -log p of the caption's next symbol given those before it (teacher forcing), in nats a word;
the end symbol counts as a word. A validation answers greedily, the last test with a beam.

data.name "scenes" draws the pictures and sentences of `scenes`, of which combinations are held
out, and counts exact matches. "flickr8k" reads `flickr`'s layout. Words that are rarer in its
training captions than data.rare are one unknown symbol, which is never an answer. Its answers are
scored against all captions of the picture in the form of `flickr.words` (lower case, no punctuation):
BLEU-1 to 4 of the corpus by sacrebleu (tokenize="none"), and the mean of the best ROUGE-L F-measure
(Lin 2004) by rouge_score, all as percentages.

Who sees nothing of the picture may say the words by their frequencies: the baseline, in nats a word.
"""

from rnnlab.tasks.captions.task import ABOUT, READS, make_task

__all__ = ["ABOUT", "READS", "make_task"]
