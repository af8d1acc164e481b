"""The serving layer: merges BatchView and Segments into Answers, exactly, at one Cut."""
