"""What the answers of tasks are judged by: tokens and real values, texts, boxes."""
