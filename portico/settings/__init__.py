"""What the administrator decided: the document, its rules, its revisions."""
