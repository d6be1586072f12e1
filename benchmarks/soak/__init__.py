"""An hour at full load: nothing may grow, nothing impossible may happen, no tunnel may be lost without a reason."""
