package wire

import (
	"errors"
	"fmt"
	"net/netip"
)

// Where a member measures the tunnel, and is measured, on its health port: POST, of its own pod's loopback, while Debug.Bench allows it.
const (
	BenchSelfPath = "/v1alpha1/bench/self" // BenchAsk -> BenchSelf
	BenchDoorPath = "/v1alpha1/bench/door" // BenchDoor -> one BenchOpened; the door is open until the request ends
	BenchRunPath  = "/v1alpha1/bench/run"  // BenchRun -> stream of BenchEvent, one a line
)

// Bounds of a measurement.
const (
	MaxBenchDoorSeconds  = 120
	MaxBenchPhaseSeconds = 10
	MaxBenchStreams      = 16
	MaxBenchBytes        = 64 << 30
	BenchTokenSize       = 64 // hexadecimal digits
	maxBenchAddresses    = 8
)

// BenchAsk asks for what needs no saying.
type BenchAsk struct{}

// Validate finds nothing wrong.
func (BenchAsk) Validate() error { return nil }

// BenchSelf is who a member is inside the tunnel.
type BenchSelf struct {
	Addresses []netip.Addr `json:"addresses"`
	Datapath  string       `json:"datapath"`
}

// BenchDoor asks for a port inside the tunnel that answers a measurement by a pod with these addresses, and nobody else.
type BenchDoor struct {
	From    []netip.Addr `json:"from"`
	Seconds int          `json:"seconds"`
}

// BenchOpened is where the door is, and what opens it.
type BenchOpened struct {
	At       []netip.AddrPort `json:"at"`
	Token    string           `json:"token"`
	Datapath string           `json:"datapath"`
}

// BenchRun asks for a measurement against a door: round trips alone, then each way with one stream and with several.
type BenchRun struct {
	To       []netip.AddrPort `json:"to"` // the first that a peer may have is taken
	Token    string           `json:"token"`
	Streams  int              `json:"streams"`  // of those phases that have several
	Seconds  int              `json:"seconds"`  // of each phase
	MaxBytes int64            `json:"maxBytes"` // of each phase
}

// BenchEvent is how far a measurement is. One field is set.
type BenchEvent struct {
	Begins string      `json:"begins,omitempty"` // a phase, in words
	Phase  *BenchPhase `json:"phase,omitempty"`  // one that is over
	Error  string      `json:"error,omitempty"`  // the measurement failed
	Done   bool        `json:"done,omitempty"`   // all phases are over
}

// The phases' names.
const (
	BenchIdle = "idle"
	BenchUp   = "up"   // from who measures
	BenchDown = "down" // to who measures
)

// BenchPhase is what was measured. Bytes are the payload of TCP, counted where they arrive.
type BenchPhase struct {
	Name          string  `json:"name"`
	Streams       int     `json:"streams"`
	Bytes         int64   `json:"bytes"`
	Seconds       float64 `json:"seconds"`
	BitsPerSecond float64 `json:"bitsPerSecond"`
	RoundTrips    int     `json:"roundTrips"` // of 64 bytes, on a connection of their own
	P50Micros     float64 `json:"p50Micros"`
	P99Micros     float64 `json:"p99Micros"`
}

// Validate names the first field that cannot be so.
func (d BenchDoor) Validate() error {
	if len(d.From) == 0 || len(d.From) > maxBenchAddresses {
		return fmt.Errorf("from: %d addresses, want 1 to %d", len(d.From), maxBenchAddresses)
	}
	for i, a := range d.From {
		if !usable(a) {
			return fmt.Errorf("from[%d]: %s is not a usable host address", i, a)
		}
	}
	if d.Seconds < 1 || d.Seconds > MaxBenchDoorSeconds {
		return fmt.Errorf("seconds: %d is not 1..%d", d.Seconds, MaxBenchDoorSeconds)
	}
	return nil
}

// Validate names the first field that cannot be so.
func (o BenchOpened) Validate() error {
	if err := validateDoors("at", o.At); err != nil {
		return err
	}
	return validateToken(o.Token)
}

// Validate names the first field that cannot be so.
func (r BenchRun) Validate() error {
	if err := validateDoors("to", r.To); err != nil {
		return err
	}
	switch {
	case r.Streams < 1 || r.Streams > MaxBenchStreams:
		return fmt.Errorf("streams: %d is not 1..%d", r.Streams, MaxBenchStreams)
	case r.Seconds < 1 || r.Seconds > MaxBenchPhaseSeconds:
		return fmt.Errorf("seconds: %d is not 1..%d", r.Seconds, MaxBenchPhaseSeconds)
	case r.MaxBytes < 1 || r.MaxBytes > MaxBenchBytes:
		return fmt.Errorf("maxBytes: %d is not 1..%d", r.MaxBytes, int64(MaxBenchBytes))
	}
	return validateToken(r.Token)
}

// Validate names the first field that cannot be so. Whoever can write into a member's pod decides what it says.
func (s BenchSelf) Validate() error {
	if len(s.Datapath) > 16 || !printable(s.Datapath) {
		return fmt.Errorf("datapath: %.32q is not a name of at most 16 printable characters", s.Datapath)
	}
	return BenchDoor{From: s.Addresses, Seconds: 1}.Validate()
}

// Validate names the first field that cannot be so.
func (e BenchEvent) Validate() error {
	if len(e.Begins) > 64 {
		return fmt.Errorf("begins: %d bytes, want at most 64", len(e.Begins))
	}
	p := e.Phase
	if p == nil {
		return nil
	}
	switch {
	case p.Name != BenchIdle && p.Name != BenchUp && p.Name != BenchDown:
		return fmt.Errorf("phase.name: %.32q is not idle, up or down", p.Name)
	case p.Streams < 0 || p.Streams > MaxBenchStreams:
		return fmt.Errorf("phase.streams: %d is not 0..%d", p.Streams, MaxBenchStreams)
	case p.Bytes < 0 || p.Seconds < 0 || p.RoundTrips < 0 || p.BitsPerSecond < 0 || p.P50Micros < 0 || p.P99Micros < 0:
		return errors.New("phase: a number is less than 0")
	}
	return nil
}

func validateDoors(field string, all []netip.AddrPort) error {
	if len(all) == 0 || len(all) > maxBenchAddresses {
		return fmt.Errorf("%s: %d addresses, want 1 to %d", field, len(all), maxBenchAddresses)
	}
	for i, a := range all {
		if a.Port() == 0 || !usable(a.Addr()) {
			return fmt.Errorf("%s[%d]: %s is not a usable host address and a port", field, i, a)
		}
	}
	return nil
}

func validateToken(s string) error {
	if len(s) != BenchTokenSize {
		return fmt.Errorf("token: %d bytes, want %d", len(s), BenchTokenSize)
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return errors.New("token: it has something else than hexadecimal digits")
		}
	}
	return nil
}
