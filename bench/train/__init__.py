"""One job: a cohort of students trained on one data stream."""
