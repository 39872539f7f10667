package wire

import (
	"errors"
	"fmt"
)

// CapturePath is where a member shows packets as they are inside the tunnel, on its health port: POST Capture -> a pcap file that grows.
// It answers its own pod's loopback alone, and only while Debug.Capture allows it.
const CapturePath = "/v1alpha1/capture"

// The trailers of a capture, which come with its end.
const (
	CapturedTrailer = "Tenantwire-Captured" // packets in the file
	DroppedTrailer  = "Tenantwire-Dropped"  // packets that the filter picked, and that there was no room for
	EndTrailer      = "Tenantwire-End"      // why it ended, in words
)

// Bounds of a capture.
const (
	MaxFilter         = 1024  // bytes of Capture.Filter
	MinSnapLength     = 40    // bytes: an IPv6 header
	MaxSnapLength     = 65535 // bytes
	MaxCaptureSeconds = 3600
)

// Debug says what a member does for those who reach its own loopback. Nil: nothing.
type Debug struct {
	Capture bool `json:"capture,omitempty"` // it shows packets as they are inside the tunnel
	Bench   bool `json:"bench,omitempty"`   // it measures the tunnel, and is measured
}

// CaptureAllowed says whether packets may be shown.
func (d *Debug) CaptureAllowed() bool { return d != nil && d.Capture }

// BenchAllowed says whether the tunnel may be measured.
func (d *Debug) BenchAllowed() bool { return d != nil && d.Bench }

// validate refuses what says nothing, so that equal configurations have equal revisions.
func (d *Debug) validate() error {
	if d != nil && *d == (Debug{}) {
		return errors.New("debug: it allows nothing, want capture or bench, or no debug")
	}
	return nil
}

// diffDebug is nil where nothing changed; what goes is replaced by what allows nothing.
func diffDebug(from, to *Debug) *Debug {
	switch {
	case from == nil && to == nil || from != nil && to != nil && *from == *to:
		return nil
	case to == nil:
		return &Debug{}
	}
	return to
}

// applied is what a delta makes of an old one. What allows nothing is nil, so that equal configurations are deeply equal.
func (d *Debug) applied(old *Debug) *Debug {
	switch {
	case d == nil:
		return old
	case *d == Debug{}:
		return nil
	}
	return d
}

// Capture asks for packets. A zero field bounds nothing beyond what is always bounded.
type Capture struct {
	Filter     string `json:"filter,omitempty"`     // which packets, as package capture reads it; empty: all
	SnapLength int    `json:"snapLength,omitempty"` // bytes of each packet; 0: whole packets
	Count      int    `json:"count,omitempty"`      // packets; 0: as many as come
	Seconds    int    `json:"seconds,omitempty"`    // 0: MaxCaptureSeconds
}

// Validate names the first field that cannot be so. Whether the filter is one, package capture knows.
func (c Capture) Validate() error {
	switch {
	case len(c.Filter) > MaxFilter:
		return fmt.Errorf("filter: %d bytes, want at most %d", len(c.Filter), MaxFilter)
	case c.SnapLength != 0 && (c.SnapLength < MinSnapLength || c.SnapLength > MaxSnapLength):
		return fmt.Errorf("snapLength: %d is not 0 or %d..%d", c.SnapLength, MinSnapLength, MaxSnapLength)
	case c.Count < 0:
		return fmt.Errorf("count: %d is less than 0", c.Count)
	case c.Seconds < 0 || c.Seconds > MaxCaptureSeconds:
		return fmt.Errorf("seconds: %d is not 0..%d", c.Seconds, MaxCaptureSeconds)
	}
	return nil
}
