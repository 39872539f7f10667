package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// DiagnosePath is where a member says what is wrong as far as it sees, on its health port: GET -> Diagnosis. It answers its own pod's
// loopback alone, one at a time, and only who sends DiagnoseHeader: an application that can be made to fetch an address does not.
//
//	?to=NAME|ADDRESS[:PORT]   looks at the way there, by sending along it what the application could send itself
//	?from=ADDRESS             says which ports an inner address is let in to
const DiagnosePath = "/v1alpha1/diagnose"

// DiagnoseHeader has to be there, with any value.
const DiagnoseHeader = "Tenantwire-Diagnose"

// Bounds of a Diagnosis.
const (
	MaxDiagnosis        = 1 << 20          // its JSON in bytes
	DiagnosisTime       = 20 * time.Second // how long one may take
	MaxDiagnosedTargets = 8                // of a destination; the others are counted in LeftOut
)

// Diagnosis is how a member sees itself and, if it was asked for a destination, the way there. It holds no secret.
type Diagnosis struct {
	Time      time.Time      `json:"time"` // the member's clock
	Datapath  datapath.Kind  `json:"datapath"`
	PublicKey key.Public     `json:"publicKey"`
	Addresses []netip.Prefix `json:"addresses,omitempty"` // the member's own, inside the tunnel
	MTU       int            `json:"mtu,omitempty"`       // inner, in bytes; 0: no configuration yet
	Up        bool           `json:"up"`
	Why       string         `json:"why,omitempty"`
	Applied   bool           `json:"applied"` // all that was configured is in force
	// Dropped is what the data path dropped so far, by reason.
	Dropped map[string]uint64 `json:"dropped,omitempty"`
	// Refused is how many connections and flows of peers failed so far, by reason.
	Refused map[string]uint64 `json:"refused,omitempty"`
	Inbound []DiagnosedPort   `json:"inbound,omitempty"` // by port, protocol: what peers may ask for
	To      *Destination      `json:"to,omitempty"`
}

// DiagnosedPort is an inbound port, and whether who was asked about is let in.
type DiagnosedPort struct {
	Port
	Admits *bool `json:"admits,omitempty"` // nil: nobody was asked about
}

// DestinationKind says what a destination is to a member.
type DestinationKind string

// The kinds of destinations.
const (
	ToService DestinationKind = "Service" // a name that was configured, a Service's or a host's
	ToHost    DestinationKind = "Host"    // a name that is looked up at a site
	ToAddress DestinationKind = "Address"
	ToNothing DestinationKind = "Unknown" // the member was told of no such name or address
)

// Destination is where a Diagnosis was asked to look.
type Destination struct {
	Asked   string            `json:"asked"`
	Kind    DestinationKind   `json:"kind"`
	Carried bool              `json:"carried"`          // the pod has the name on its loopback
	Ports   []Port            `json:"ports,omitempty"`  // of the name
	Port    Port              `json:"port,omitzero"`    // that was looked at; its number is 0 where no port is dialled
	Why     string            `json:"why,omitempty"`    // there are no targets, or none may be dialled
	LeftOut int               `json:"leftOut,omitzero"` // targets beyond MaxDiagnosedTargets
	Targets []DiagnosedTarget `json:"targets,omitempty"`
}

// DiagnosedTarget is one address that a destination leads to, and how the way there is.
type DiagnosedTarget struct {
	Address      netip.Addr     `json:"address"`
	Port         uint16         `json:"port,omitzero"`
	PublicKey    key.Public     `json:"publicKey,omitzero"` // of the peer that has the address; zero: none has
	Outside      bool           `json:"outside,omitempty"`
	Gateway      bool           `json:"gateway,omitempty"`
	Endpoint     netip.AddrPort `json:"endpoint,omitzero"`      // where packets go; zero: nobody knows
	EndpointName string         `json:"endpointName,omitempty"` // which is looked up
	// The peer before the packets of this diagnosis, and after them.
	Before PeerCounters `json:"before,omitzero"`
	After  PeerCounters `json:"after,omitzero"`
	// What the datapath knows of the way to the peer, as in DevicePeer; 0 and empty with one that does not find it out.
	PathMTU  int               `json:"pathMTU,omitempty"`
	MTUState datapath.MTUState `json:"mtuState,omitempty"`
	Echoes   []Echo            `json:"echoes,omitempty"` // by size
	Dial     *Dial             `json:"dial,omitempty"`   // nil: no port was dialled
}

// PeerCounters are what a device counts of a peer.
type PeerCounters struct {
	LastHandshake time.Time `json:"lastHandshake,omitzero"` // by the member's clock; zero: never
	RxBytes       uint64    `json:"rxBytes,omitempty"`
	TxBytes       uint64    `json:"txBytes,omitempty"`
}

// Echo is an ICMP echo request of some size.
type Echo struct {
	Bytes    int    `json:"bytes"` // of the inner packet, IP header included
	Answered bool   `json:"answered"`
	Micros   int64  `json:"microseconds,omitzero"` // until the answer
	Why      string `json:"why,omitempty"`         // it could not be sent; empty and not Answered: no answer came
}

// Dial is a TCP connection that was tried, and closed again.
type Dial struct {
	OK     bool   `json:"ok"`
	Micros int64  `json:"microseconds,omitzero"`
	Reason string `json:"reason,omitempty"` // Refused, Timeout or Unreachable
	Why    string `json:"why,omitempty"`
}

// maxSaid bounds a text in a Diagnosis, in bytes.
const maxSaid = 1 << 10

// Validate names the first field of what a member says that cannot be so. Whoever can write into a member's pod decides what it says;
// texts may still have anything in them but more than 1 KiB.
func (d *Diagnosis) Validate() error {
	switch {
	case d.PublicKey.IsZero():
		return errors.New("publicKey: it is not set")
	case len(d.Datapath) > 16 || !printable(string(d.Datapath)):
		return fmt.Errorf("datapath: %.32q is not a name of at most 16 printable characters", string(d.Datapath))
	case len(d.Why) > maxSaid:
		return fmt.Errorf("why: %d bytes are more than %d", len(d.Why), maxSaid)
	}
	for field, counts := range map[string]map[string]uint64{"dropped": d.Dropped, "refused": d.Refused} {
		for why := range counts {
			if why == "" || len(why) > 64 || !printable(why) {
				return fmt.Errorf("%s: %.80q is not a reason of 1 to 64 printable characters", field, why)
			}
		}
	}
	if d.To == nil {
		return nil
	}
	if err := d.To.validate(); err != nil {
		return fmt.Errorf("to.%w", err)
	}
	return nil
}

func (d *Destination) validate() error {
	switch {
	case d.Kind != ToService && d.Kind != ToHost && d.Kind != ToAddress && d.Kind != ToNothing:
		return fmt.Errorf("kind: %.32q is not Service, Host, Address or Unknown", string(d.Kind))
	case len(d.Why) > maxSaid || len(d.Asked) > maxSaid:
		return fmt.Errorf("why: more than %d bytes", maxSaid)
	case len(d.Targets) > MaxDiagnosedTargets:
		return fmt.Errorf("targets: %d are more than %d", len(d.Targets), MaxDiagnosedTargets)
	}
	for i, t := range d.Targets {
		switch {
		case !t.Address.IsValid() || t.Address.Zone() != "":
			return fmt.Errorf("targets[%d].address: %q is not an address", i, t.Address)
		case t.PathMTU < 0 || t.PathMTU > MaxMTU:
			return fmt.Errorf("targets[%d].pathMTU: %d is not 0 to %d", i, t.PathMTU, MaxMTU)
		case len(t.MTUState) > 16 || !printable(string(t.MTUState)):
			return fmt.Errorf("targets[%d].mtuState: %.32q is not a name of at most 16 printable characters", i, string(t.MTUState))
		case len(t.EndpointName) > maxSaid:
			return fmt.Errorf("targets[%d].endpointName: more than %d bytes", i, maxSaid)
		case t.Dial != nil && (len(t.Dial.Why) > maxSaid || len(t.Dial.Reason) > 64):
			return fmt.Errorf("targets[%d].dial: a text is longer than %d bytes", i, maxSaid)
		}
		for j, e := range t.Echoes {
			if e.Bytes <= 0 || e.Bytes > MaxMTU || len(e.Why) > maxSaid {
				return fmt.Errorf("targets[%d].echoes[%d].bytes: %d is not 1 to %d", i, j, e.Bytes, MaxMTU)
			}
		}
	}
	return nil
}
