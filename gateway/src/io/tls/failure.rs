//! What a peer did wrong, and the alert that tells it.

use rustls::{AlertDescription, Error, InvalidMessage, PeerMisbehaved};

/// A fatal error of the record layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// None when the peer itself ended the connection: nobody listens any more.
    pub alert: Option<AlertDescription>,
    pub error: Error,
}

impl Failure {
    pub fn new(alert: AlertDescription, error: Error) -> Self {
        Self { alert: Some(alert), error }
    }

    pub fn too_long() -> Self {
        Self::new(AlertDescription::RecordOverflow, Error::PeerSentOversizedRecord)
    }

    /// A message that has no place here.
    pub fn unexpected(what: &'static str) -> Self {
        Self::new(AlertDescription::UnexpectedMessage, InvalidMessage::UnexpectedMessage(what).into())
    }

    /// Too many messages that are legal one by one.
    pub fn flood(flood: PeerMisbehaved) -> Self {
        Self::new(AlertDescription::UnexpectedMessage, flood.into())
    }
}

/// Whether a connection failed because its peer sent too many records or messages that carry nothing.
pub fn is_flood(error: &Error) -> bool {
    use PeerMisbehaved as P;
    matches!(
        error,
        Error::PeerMisbehaved(
            P::TooManyEmptyFragments
                | P::TooManyKeyUpdateRequests
                | P::TooManyRenegotiationRequests
                | P::TooManyWarningAlertsReceived
        )
    )
}
