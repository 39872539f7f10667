package wire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
)

// MTU bounds in bytes: the smallest that IPv6 allows and the largest that fits a datagram.
const (
	MinMTU = 1280
	MaxMTU = 65455
)

// Validate says what is wrong with a configuration, naming field and value. It is what stands between a garbled stream and a
// live device.
func (c Config) Validate() error {
	if len(c.Interface.Addresses) == 0 {
		return errors.New("interface.addresses: empty, want at least one address")
	}
	for _, a := range c.Interface.Addresses {
		if !a.IsValid() || !a.IsSingleIP() || !usable(a.Addr()) {
			return fmt.Errorf("interface.addresses: %s is not a usable host address", a)
		}
	}
	if m := c.Interface.MTU; m != 0 && (m < MinMTU || m > MaxMTU) {
		return fmt.Errorf("interface.mtu: %d is not 0 or %d..%d", m, MinMTU, MaxMTU)
	}
	if err := c.validateMappings(); err != nil {
		return err
	}
	if err := validatePeers(c.Peers); err != nil {
		return err
	}
	for i, s := range c.Services {
		if err := s.validate(); err != nil {
			return fmt.Errorf("services[%d]: %w", i, err)
		}
		if i > 0 && compareServices(c.Services[i-1], s) >= 0 {
			return fmt.Errorf("services[%d]: %s is out of order or a duplicate", i, s.ServiceID)
		}
	}
	if err := validatePorts("inbound", c.Inbound); err != nil {
		return err
	}
	if err := validatePorts("granted", c.Granted); err != nil {
		return err
	}
	if err := validateGrants(c.Grants, c.Interface.Hub); err != nil {
		return err
	}
	if err := c.Zone.validate(); err != nil {
		return err
	}
	if err := c.Limits.validate(); err != nil {
		return err
	}
	if err := c.Debug.validate(); err != nil {
		return err
	}
	if err := c.validateRelays(); err != nil {
		return err
	}
	if err := c.validatePublished(); err != nil {
		return err
	}
	return c.validateLooked()
}

func validatePorts(field string, ports []Port) error {
	for i, p := range ports {
		if err := p.validate(); err != nil {
			return fmt.Errorf("%s[%d]: %w", field, i, err)
		}
		if i > 0 && comparePorts(ports[i-1], p) >= 0 {
			return fmt.Errorf("%s[%d]: %s is out of order or a duplicate", field, i, p)
		}
	}
	return nil
}

func validatePeers(peers []Peer) error {
	owner := make(map[netip.Prefix]int, len(peers))
	for i, p := range peers {
		if p.PublicKey.IsZero() {
			return fmt.Errorf("peers[%d].publicKey: missing", i)
		}
		if i > 0 && comparePeers(peers[i-1], p) >= 0 {
			return fmt.Errorf("peers[%d].publicKey: %s is out of order or a duplicate", i, p.PublicKey)
		}
		if p.Endpoint != (netip.AddrPort{}) && !dialable(p.Endpoint) {
			return fmt.Errorf("peers[%d].endpoint: %s is not an address and port", i, p.Endpoint)
		}
		if err := validateEndpointName(p); err != nil {
			return fmt.Errorf("peers[%d].endpointName: %w", i, err)
		}
		if p.KeepaliveSeconds < 0 || p.KeepaliveSeconds > 65535 {
			return fmt.Errorf("peers[%d].keepaliveSeconds: %d is not 0..65535", i, p.KeepaliveSeconds)
		}
		if p.PresharedKey != "" && !IsPresharedName(p.PresharedKey) {
			return fmt.Errorf("peers[%d].presharedKey: %.80q is not the name of a Secret's entry", i, p.PresharedKey)
		}
		if err := p.validateOwners(); err != nil {
			return fmt.Errorf("peers[%d].owners: %w", i, err)
		}
		if p.Gateway && !p.Outside {
			return fmt.Errorf("peers[%d].gateway: %s is a member, want outside beside it", i, p.PublicKey)
		}
		for _, a := range p.Ranges() {
			if !a.IsValid() || a != a.Masked() || a.Addr().Is4In6() {
				return fmt.Errorf("peers[%d].allowedIPs: %s is not a range without host bits", i, a)
			}
			if j, taken := owner[a]; taken {
				return fmt.Errorf("peers[%d].allowedIPs: %s belongs to peer %s already", i, a, peers[j].PublicKey)
			}
			owner[a] = i
		}
	}
	return nil
}

// IsPresharedName says whether a preshared key can have that name: it is a file's for a gateway, in a folder of its own.
func IsPresharedName(s string) bool { return len(s) <= 253 && presharedName.MatchString(s) }

var presharedName = regexp.MustCompile(`^[A-Za-z0-9]([-._A-Za-z0-9]*[A-Za-z0-9])?$`)

func validateEndpointName(p Peer) error {
	if p.EndpointName == "" {
		return nil
	}
	if p.Endpoint != (netip.AddrPort{}) {
		return fmt.Errorf("%.80q stands beside the endpoint %s, want one of them", p.EndpointName, p.Endpoint)
	}
	_, _, err := SplitEndpointName(p.EndpointName)
	return err
}

// dialable says whether a datagram can be sent to one host there. A zone names an interface of whoever wrote it, not of ours.
func dialable(e netip.AddrPort) bool {
	a := e.Addr()
	return e.Port() != 0 && a.IsValid() && a.Zone() == "" && !a.IsUnspecified() && !a.IsMulticast()
}

func (s Service) validate() error {
	if s.Name == "" || len(s.Name) > 253 {
		return fmt.Errorf("name: %q is not 1 to 253 characters", s.Name)
	}
	if err := (Port{s.Port, s.Protocol}).validate(); err != nil {
		return err
	}
	for _, t := range s.Targets {
		if t.Port() == 0 || !usable(t.Addr()) {
			return fmt.Errorf("targets: %s is not a usable address and port", t)
		}
	}
	return nil
}

func (p Port) validate() error {
	if p.Port == 0 {
		return errors.New("port: 0 is not 1..65535")
	}
	if p.Protocol != TCP && p.Protocol != UDP {
		return fmt.Errorf("protocol: %q is not TCP or UDP", p.Protocol)
	}
	return nil
}

// usable says whether an address can be that of a host inside a tunnel. Loopback and link-local ones never can: a target among
// them would lead into the pod itself or to a metadata service.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.Is4In6() && a.Zone() == "" && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast()
}

// Reader reads a watch.
type Reader struct{ s *bufio.Scanner }

// NewReader reads Events from r, one a line.
func NewReader(r io.Reader) *Reader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), MaxEvent+2) // the line's end, and the byte that the scanner wants to spare
	return &Reader{s}
}

// Next returns the next Event; io.EOF when the watch ended between two lines. A line that is too long, cut off or not an Event is
// an error.
func (r *Reader) Next() (Event, error) {
	if !r.s.Scan() {
		if err := r.s.Err(); err != nil {
			return Event{}, fmt.Errorf("read event: %w", err)
		}
		return Event{}, io.EOF
	}
	var e Event
	if err := json.Unmarshal(r.s.Bytes(), &e); err != nil { // unlike a Decoder it refuses what follows the value
		return Event{}, fmt.Errorf("decode event: %w", err)
	}
	return e, e.validate()
}

func (e Event) validate() error {
	switch {
	case e.Type == Snapshot && e.Config != nil && e.To != "":
	case e.Type == DeltaType && e.Delta != nil && e.From != "" && e.To != "":
	case e.Type == Heartbeat && e.To != "":
	case e.Type == Gone:
	default:
		return fmt.Errorf("event of type %q lacks what that type needs", e.Type)
	}
	return nil
}

// Advance returns the configuration and revision that an Event leads to from the current ones. On an error the current ones stay
// good and the watch must be opened anew. Unknown fields of newer coordinators are ignored, so the digest is compared only through
// From: To is the coordinator's name for the result.
func Advance(current Config, revision string, e Event) (Config, string, error) {
	switch e.Type {
	case Snapshot:
		next := *e.Config
		if err := next.Validate(); err != nil {
			return current, revision, fmt.Errorf("snapshot %s: %w", e.To, err)
		}
		return next, e.To, nil
	case DeltaType:
		if e.From != revision {
			return current, revision, fmt.Errorf("delta from revision %s, but %s is current", e.From, revision)
		}
		next, err := current.Apply(*e.Delta)
		if err != nil {
			return current, revision, fmt.Errorf("delta to %s: %w", e.To, err)
		}
		return next, e.To, nil
	case Heartbeat:
		if e.To != revision {
			return current, revision, fmt.Errorf("heartbeat at revision %s, but %s is current", e.To, revision)
		}
	case Gone:
		return Config{Interface: current.Interface}, "", nil
	}
	return current, revision, nil
}
