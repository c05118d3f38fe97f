"""What shows scores: figures, reports, pages, quality maps, the files of a submission."""
