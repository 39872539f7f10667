package datapath

// MTUState is what is known of how long packets to a peer may be.
type MTUState string

// The states.
const (
	// MTUUnverified: nothing has been tried on the path yet, or the peer answers no echo request. What the interface says holds.
	MTUUnverified MTUState = "Unverified"
	// MTUSearching: packets are being tried.
	MTUSearching MTUState = "Searching"
	// MTUVerified: a packet of that size went to the peer, and its answer came back.
	MTUVerified MTUState = "Verified"
	// MTUBlackHole: not even MinMTU bytes pass in one piece. What is longer than what does leaves in fragments.
	MTUBlackHole MTUState = "BlackHole"
)
