package wire

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Revision is a digest of the configuration; equal configurations have equal revisions.
func (c Config) Revision() string {
	b, err := json.Marshal(c)
	if err != nil {
		panic("wire: a Config that cannot be JSON: " + err.Error()) // unreachable: no field can fail
	}
	sum := sha256.Sum256(b)
	return base64.RawURLEncoding.EncodeToString(sum[:18])
}

// Sort puts the lists in their canonical order, which Revision, Diff and Validate rely on.
func (c *Config) Sort() {
	slices.SortFunc(c.Peers, comparePeers)
	slices.SortFunc(c.Services, compareServices)
	slices.SortFunc(c.Inbound, comparePorts)
	slices.SortFunc(c.Granted, comparePorts)
	sortGrants(c.Grants)
	slices.SortFunc(c.Relays, compareRelays)
	slices.SortFunc(c.Clients, netip.Addr.Compare)
	slices.SortFunc(c.Published, comparePublished)
}

func comparePeers(a, b Peer) int       { return bytes.Compare(a.PublicKey[:], b.PublicKey[:]) }
func compareServices(a, b Service) int { return compareIDs(a.ServiceID, b.ServiceID) }

func compareIDs(a, b ServiceID) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}

func comparePorts(a, b Port) int {
	return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}

// Diff says how to get from one configuration to another; both are in canonical order.
func Diff(from, to Config) Delta {
	var d Delta
	if !reflect.DeepEqual(from.Interface, to.Interface) {
		d.Interface = &to.Interface
	}
	merge(from.Peers, to.Peers, comparePeers,
		func(p Peer) { d.UpsertPeers = append(d.UpsertPeers, p) },
		func(p Peer) { d.RemovePeers = append(d.RemovePeers, p.PublicKey) })
	merge(from.Services, to.Services, compareServices,
		func(s Service) { d.UpsertServices = append(d.UpsertServices, s) },
		func(s Service) { d.RemoveServices = append(d.RemoveServices, s.ServiceID) })
	d.Inbound = diffPorts(from.Inbound, to.Inbound)
	d.Granted = diffPorts(from.Granted, to.Granted)
	d.diffGrants(from.Grants, to.Grants)
	d.Zone = diffZone(from.Zone, to.Zone)
	d.Limits = diffLimits(from.Limits, to.Limits)
	d.diffRelays(from, to)
	d.Lookups = diffLookups(from.Lookups, to.Lookups)
	d.Debug = diffDebug(from.Debug, to.Debug)
	d.diffPublished(from, to)
	return d
}

// diffPorts is nil where nothing changed, and never points to nil: JSON could not tell that from absent.
func diffPorts(from, to []Port) *[]Port {
	if slices.Equal(from, to) {
		return nil
	}
	ports := append([]Port{}, to...)
	return &ports
}

// merge walks two sorted lists and calls upsert for what is new or changed in b, remove for what only a has.
func merge[T any](a, b []T, compare func(T, T) int, upsert, remove func(T)) {
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && compare(a[0], b[0]) < 0:
			remove(a[0])
			a = a[1:]
		case len(a) == 0 || compare(a[0], b[0]) > 0:
			upsert(b[0])
			b = b[1:]
		default:
			if !reflect.DeepEqual(a[0], b[0]) {
				upsert(b[0])
			}
			a, b = a[1:], b[1:]
		}
	}
}

// IsEmpty says whether the delta changes nothing.
func (d Delta) IsEmpty() bool {
	return d.Interface == nil && len(d.UpsertPeers) == 0 && len(d.RemovePeers) == 0 &&
		len(d.UpsertServices) == 0 && len(d.RemoveServices) == 0 && d.Inbound == nil && d.Granted == nil && d.Zone == nil && d.Limits == nil &&
		d.keepsRelays() && d.keepsGrants() && d.Lookups == nil && d.Debug == nil && d.keepsPublished()
}

// Apply returns the configuration that the delta leads to. The receiver is not changed. The result is validated, so that a
// garbled delta never reaches a device.
func (c Config) Apply(d Delta) (Config, error) {
	out := Config{Interface: c.Interface, Inbound: c.Inbound, Granted: c.Granted, Zone: c.Zone, Limits: d.Limits.applied(c.Limits)}
	if d.Interface != nil {
		out.Interface = *d.Interface
	}
	if d.Inbound != nil {
		out.Inbound = *d.Inbound
	}
	if d.Granted != nil {
		out.Granted = *d.Granted
	}
	if d.Zone != nil {
		out.Zone = d.Zone
	}
	dropPeer := make(map[key.Public]bool, len(d.RemovePeers)+len(d.UpsertPeers))
	for _, k := range d.RemovePeers {
		dropPeer[k] = true
	}
	for _, p := range d.UpsertPeers {
		if dropPeer[p.PublicKey] {
			return Config{}, fmt.Errorf("delta: peer %s is both upserted and removed, or twice upserted", p.PublicKey)
		}
		dropPeer[p.PublicKey] = true
	}
	out.Peers = replace(c.Peers, d.UpsertPeers, func(p Peer) bool { return dropPeer[p.PublicKey] })
	dropService := make(map[ServiceID]bool, len(d.RemoveServices)+len(d.UpsertServices))
	for _, id := range d.RemoveServices {
		dropService[id] = true
	}
	for _, s := range d.UpsertServices {
		if dropService[s.ServiceID] {
			return Config{}, fmt.Errorf("delta: service %s is both upserted and removed, or twice upserted", s.ServiceID)
		}
		dropService[s.ServiceID] = true
	}
	out.Services = replace(c.Services, d.UpsertServices, func(s Service) bool { return dropService[s.ServiceID] })
	if err := errors.Join(out.applyRelays(c, d), out.applyPublished(c, d)); err != nil {
		return Config{}, err
	}
	if err := out.applyGrants(c.Grants, d); err != nil {
		return Config{}, err
	}
	out.applyLookups(c, d)
	out.Debug = d.Debug.applied(c.Debug)
	out.Sort()
	return out, out.Validate()
}

func replace[T any](old, upsert []T, drop func(T) bool) []T {
	out := make([]T, 0, len(old)+len(upsert))
	for _, v := range old {
		if !drop(v) {
			out = append(out, v)
		}
	}
	if out = append(out, upsert...); len(out) == 0 {
		return nil // as JSON decodes an absent list, so that equal configurations are deeply equal
	}
	return out
}

// String is the form used in messages: name:port/protocol.
func (id ServiceID) String() string { return fmt.Sprintf("%s:%d/%s", id.Name, id.Port, id.Protocol) }

// String is the form used in messages: port/protocol.
func (p Port) String() string { return fmt.Sprintf("%d/%s", p.Port, p.Protocol) }
