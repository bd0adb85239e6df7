"""A character model of LaTeX, on a folder of .tex files of yours, and how much of what it writes compiles.

    python launch.py train --config=experiments/latex.py --config.data.path=FOLDER
    python launch.py compile --workdir=runs/latex

The second command needs pdflatex (Debian: apt-get install texlive-latex-base) and writes latex/latex.md
into the run's folder. The built-in preamble knows what the Stacks Project uses; with texlive-pictures
its diagrams are checked too. For a text with macros of its own give --preamble=FILE.

On seven chapters of the Stacks Project (3.9 MB), 8 minutes of CPU time: 0.917 nats per character on the
held-out tenth; of 100 texts of about 500 characters 13 compile, of a 6-gram model 0 (1.090 nats), of a
9-gram model 1, of excerpts 98.
"""

from experiments import default


def get_config():
    config = default.get_config()
    config.data.corpus = "latex"  # a label: there is no such corpus without data.path
    config.data.glob = "*.tex"
    config.model.cell = "lstm"
    config.model.hidden = 256
    config.model.layers = 1
    config.optim.learning_rate = 0.005
    config.optim.clip_norm = 1.0
    config.train.steps = 8000
    # Half the rows and twice the window of the default: what is begun must be ended much later.
    config.train.batch_size = 16
    config.train.window = 128
    config.train.log_every = 100
    config.train.eval_every = 2000
    config.train.sample_every = 2000
    config.train.checkpoint_every = 2000
    config.sample.prime = "\n\n"  # as a paragraph begins
    return config
