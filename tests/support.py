"""What several files of tests use: where things lie, and configs that train in seconds."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
