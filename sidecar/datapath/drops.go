package datapath

// The reasons for which a datapath drops packets or handshake messages: the keys of Datapath.Drops, and the label of a metric. Each means the same
// in every implementation; Capabilities says what one of them cannot count.
const (
	DropNoPeer             = "NoPeer"             // to send: nobody may have the destination
	DropNoSession          = "NoSession"          // of no session, or of one that has expired
	DropSendError          = "SendError"          // the system refused it, or a fence kept it back
	DropMalformed          = "Malformed"          // neither a WireGuard message nor, once decrypted, an IP packet
	DropUnauthentic        = "Unauthentic"        // forged: it does not decrypt, or is to an inner address and came through no tunnel
	DropReplayed           = "Replayed"           // came before
	DropForeignSource      = "ForeignSource"      // from an inner address that the peer, or any, may not have
	DropForeignDestination = "ForeignDestination" // to an inner address that is not ours
	DropRefused            = "Refused"            // for us, and for nobody here: mostly to ports that are not open, whose sender is told
	DropNotForwarded       = "NotForwarded"       // to pass on, between two who may not reach each other through us
	DropHopLimit           = "HopLimit"           // made its last hop here, and was for somebody else
	DropTooBig             = "TooBig"             // to pass on, and longer than the path to the next peer takes; the sender was told
	DropOverShare          = "OverShare"          // of a peer that had its share, while the socket overflowed
	DropReceiveLimit       = "ReceiveLimit"       // of a peer that has sent more than its bandwidth
	DropSendLimit          = "SendLimit"          // to a peer that was sent more than its bandwidth
	DropHandshakeLimit     = "HandshakeLimit"     // more handshakes than a peer may begin
	DropHandshakeRefused   = "HandshakeRefused"   // handshake messages that prove nothing
	DropHandshakeLost      = "HandshakeLost"      // more handshake messages than could be looked at
	DropOverLimit          = "OverLimit"          // connections and flows that are more than are let wait for an answer
)
