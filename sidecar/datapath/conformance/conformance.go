// Package conformance is what every datapath must do, as tests: Run is called by each implementation, and by mixed pairs of them, and
// nothing in it knows which it has. Where the contract leaves room, the suite asks datapath.Capabilities and tests what is said there;
// it never skips.
//
// Each test gets a Lab of its own: up to three hosts that reach each other, on each of which it opens at most one interface at a time.
// One more kind of host is made here, on top of upstream wireguard-go: a raw peer, which sends and receives plain inner packets
// (raw.go, hostile.go), so that every implementation also meets another's protocol.
package conformance

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Options says how a Lab opens a datapath.
type Options struct {
	Host       int // 1 to 3
	PrivateKey key.Private
	ListenPort uint16 // zero: any
	Interface  datapath.Interface
}

// Lab is where a test takes place.
type Lab interface {
	// Open opens a datapath on a host. The suite closes it.
	Open(Options) (datapath.Datapath, error)
	// Outer is where a host is reached by the others.
	Outer(host int, six bool) netip.Addr
	// Do runs f so that the sockets it makes are the host's.
	Do(host int, f func())
}

// NewLab makes a Lab that lasts as long as the test.
type NewLab func(testing.TB) Lab

// tests are all of the suite, in the order of what they build on.
var tests = []struct {
	name string
	f    func(*testing.T, *room)
}{
	{"Echo", testEcho},
	{"OuterIPv6", testOuterIPv6},
	{"HalfClose", testHalfClose},
	{"Reset", testReset},
	{"Refused", testRefused},
	{"DefaultDeny", testDefaultDeny},
	{"OpenAtOneAddress", testOpenAtOneAddress},
	{"ManyAddresses", testManyAddresses},
	{"AcceptDecides", testAcceptDecides},
	{"ClientInAHurry", testClientInAHurry},
	{"DialFails", testDialFails},
	{"OwnAddress", testOwnAddress},
	{"Deadlines", testDeadlines},
	{"Backpressure", testBackpressure},
	{"ManyStalled", testManyStalled},
	{"BulkBothWays", testBulk},
	{"ShortConnections", testShortConnections},
	{"Datagrams", testDatagrams},
	{"FirstDatagramsWait", testFirstDatagramsWait},
	{"FlowsAreApart", testFlowsAreApart},
	{"RefusedDatagram", testRefusedDatagram},
	{"MTU", testMTU},
	{"OtherPeersAreUndisturbed", testOthersUndisturbed},
	{"Takeover", testTakeover},
	{"RefusedDeltasChangeNothing", testRefusedDeltas},
	{"PresharedKey", testPresharedKey},
	{"WrongPresharedKey", testWrongPresharedKey},
	{"PresharedKeyChanges", testPresharedKeyChanges},
	{"RoamingDialler", testRoamingDialler},
	{"RoamingListener", testRoamingListener},
	{"RoamsUnderStream", testRoamsUnderStream},
	{"LearnsEndpoint", testLearnsEndpoint},
	{"Counters", testCounters},
	{"Hub", testHub},
	{"Mapping", testMapping},
	{"SetInterfaceKeepsConnections", testSetInterface},
	{"AddressThatGoes", testAddressGoes},
	{"ForeignSource", testForeignSource},
	{"RawPing", testRawPing},
	{"RawCounters", testRawCounters},
	{"RawRestart", testRestart},
	{"RawRefused", testRawRefused},
	{"RawSpoofed", testRawSpoofed},
	{"RawSpoofsAnother", testRawSpoofsAnother},
	{"RawSourceOfNobody", testRawSourceOfNobody},
	{"RawReplayed", testRawReplayed},
	{"RawNotForUs", testRawNotForUs},
	{"RawOverLimit", testRawOverLimit},
	{"CloseUnderLoad", testCloseUnderLoad},
	{"Flush", testFlush},
	{"FlushEnds", testFlushEnds},
	{"PeersLearnOfClose", testPeersLearnOfClose},
	{"Closed", testClosed},
	{"OpenRefuses", testOpenRefuses},
	{"NothingIsLeft", testNothingIsLeft},
}

// between are the tests in which it matters whether both ends are one implementation.
var between = []string{"Echo", "OuterIPv6", "HalfClose", "Reset", "BulkBothWays", "Datagrams", "MTU", "PresharedKey", "WrongPresharedKey",
	"RoamingDialler", "RoamingListener", "Counters"}

// Run runs the suite. With -short it makes fewer connections and moves fewer bytes.
func Run(t *testing.T, lab NewLab) {
	run(t, lab, func(string) bool { return true })
}

// RunBetween runs what two implementations may disagree in.
func RunBetween(t *testing.T, lab NewLab) {
	run(t, lab, func(name string) bool { return slices.Contains(between, name) })
}

func run(t *testing.T, lab NewLab, which func(name string) bool) {
	for _, c := range tests {
		if which(c.name) {
			t.Run(c.name, func(t *testing.T) { c.f(t, newRoom(t, lab(t))) })
		}
	}
}
