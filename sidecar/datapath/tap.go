package datapath

// Tapper is a Datapath that can show packets as they are inside the tunnel: those to peers, and authentic ones from peers, also those
// that are dropped a moment later. What a hub passes on is shown once, as it came.
type Tapper interface {
	// SetTap sets who is shown each packet; nil: nobody. The packet begins with its IP header, may be followed by padding, and is the
	// datapath's again when take returns. It is called by several goroutines at once, for a moment after it was replaced too, and must
	// not block.
	SetTap(take func(packet []byte))
}
