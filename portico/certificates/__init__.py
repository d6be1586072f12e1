"""Identities: the built-in CA, imported certificates, enrolment, renewal, revocation."""
