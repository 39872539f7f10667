package wire

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// DevicePath is where a member shows its Device, on its health port: GET -> Device. It answers its own pod's loopback alone.
const DevicePath = "/v1alpha1/device"

// MaxDevice bounds a Device's JSON in bytes.
const MaxDevice = 16 << 20

// Device is a member's WireGuard interface as it is now. It holds no secret.
type Device struct {
	Interface  string        `json:"interface"` // a name to show; with the datapath Netstack there is no such interface
	Datapath   datapath.Kind `json:"datapath"`
	PublicKey  key.Public    `json:"publicKey"`
	ListenPort uint16        `json:"listenPort,omitempty"` // outer UDP port; 0: none yet
	Time       time.Time     `json:"time"`                 // the member's clock, by which LastHandshake is told
	Up         bool          `json:"up"`                   // the data path carries traffic
	Why        string        `json:"why,omitempty"`        // why not
	Peers      []DevicePeer  `json:"peers,omitempty"`      // the one with the latest handshake first
}

// DevicePeer is one peer of a Device.
type DevicePeer struct {
	PublicKey        key.Public     `json:"publicKey"`
	Preshared        bool           `json:"preshared,omitempty"` // there is a preshared key
	Endpoint         netip.AddrPort `json:"endpoint,omitzero"`   // zero while unknown
	AllowedIPs       []netip.Prefix `json:"allowedIPs,omitempty"`
	LastHandshake    time.Time      `json:"lastHandshake,omitzero"` // zero: never
	RxBytes          uint64         `json:"rxBytes,omitempty"`      // WireGuard bytes received from the peer
	TxBytes          uint64         `json:"txBytes,omitempty"`      // WireGuard bytes sent to the peer
	KeepaliveSeconds uint16         `json:"keepaliveSeconds,omitempty"`
	// PathMTU is how long packets inside the tunnel to the peer may be, in bytes, and MTUState what is known of that; 0 and empty: the
	// datapath does not find it out, or the member does not say it.
	PathMTU  int               `json:"pathMTU,omitempty"`
	MTUState datapath.MTUState `json:"mtuState,omitempty"`
}

// Validate names the first field of what a member shows that cannot be so. Whoever can write into a member's pod decides what it says.
func (d Device) Validate() error {
	switch {
	case d.PublicKey.IsZero():
		return errors.New("publicKey: it is not set")
	case d.Interface == "" || len(d.Interface) > 15 || !printable(d.Interface):
		return fmt.Errorf("interface: %q is not a name of 1 to 15 printable characters", d.Interface)
	case len(d.Datapath) > 16 || !printable(string(d.Datapath)):
		return fmt.Errorf("datapath: %.32q is not a name of at most 16 printable characters", string(d.Datapath))
	}
	for i, p := range d.Peers {
		switch {
		case p.PublicKey.IsZero():
			return fmt.Errorf("peers[%d].publicKey: it is not set", i)
		case p.Endpoint.Addr().Zone() != "":
			return fmt.Errorf("peers[%d].endpoint: %q has a zone", i, p.Endpoint)
		case p.PathMTU < 0 || p.PathMTU > MaxMTU:
			return fmt.Errorf("peers[%d].pathMTU: %d is not 0 to %d", i, p.PathMTU, MaxMTU)
		case len(p.MTUState) > 16 || !printable(string(p.MTUState)):
			return fmt.Errorf("peers[%d].mtuState: %.32q is not a name of at most 16 printable characters", i, string(p.MTUState))
		}
		for j, a := range p.AllowedIPs {
			if !a.IsValid() {
				return fmt.Errorf("peers[%d].allowedIPs[%d]: it is not set", i, j)
			}
		}
	}
	return nil
}

// printable says whether a terminal takes s for text.
func printable(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}
