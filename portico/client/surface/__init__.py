"""How others see what the connectivity assistant found: the status socket, the page, the support bundle.

`words` says it to people; `feed` tells every user of this computer, `feed_client` listens there; `page` draws it and
`page_server` shows the page to one user; `sources` is what a support bundle holds, `redaction` what it must not hold,
`bundle` the file.
"""
