package cli

import (
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// hidden stands for a key that is not shown, as wg does.
const hidden = "(hidden)"

// showDevice prints a device as `wg show` does: the same lines in the same order. How long ago a handshake was is told by the device's
// own clock, as this one may differ.
func showDevice(w io.Writer, d *wire.Device) error {
	var b strings.Builder
	fmt.Fprintf(&b, "interface: %s\n  public key: %s\n  private key: %s\n", d.Interface, d.PublicKey, hidden)
	if d.ListenPort != 0 {
		fmt.Fprintf(&b, "  listening port: %d\n", d.ListenPort)
	}
	for _, p := range d.Peers {
		fmt.Fprintf(&b, "\npeer: %s\n", p.PublicKey)
		if p.Preshared {
			fmt.Fprintf(&b, "  preshared key: %s\n", hidden)
		}
		if p.Endpoint.IsValid() {
			fmt.Fprintf(&b, "  endpoint: %s\n", p.Endpoint)
		}
		fmt.Fprintf(&b, "  allowed ips: %s\n", prefixes(p.AllowedIPs, ", "))
		if !p.LastHandshake.IsZero() {
			fmt.Fprintf(&b, "  latest handshake: %s\n", wgAgo(d.Time.Unix()-p.LastHandshake.Unix()))
		}
		if p.RxBytes > 0 || p.TxBytes > 0 {
			fmt.Fprintf(&b, "  transfer: %s received, %s sent\n", wgBytes(p.RxBytes), wgBytes(p.TxBytes))
		}
		if p.KeepaliveSeconds > 0 {
			fmt.Fprintf(&b, "  persistent keepalive: every %s\n", wgTime(int64(p.KeepaliveSeconds)))
		}
		if p.PathMTU > 0 { // wg knows nothing of it
			fmt.Fprintf(&b, "  path mtu: %d bytes, %s\n", p.PathMTU, p.MTUState)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// dumpDevice prints a device as `wg show INTERFACE dump` does, for programs: fields with a tab between them, the interface's own line first.
func dumpDevice(w io.Writer, d *wire.Device) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\t%s\t%d\toff\n", hidden, d.PublicKey, d.ListenPort)
	for _, p := range d.Peers {
		preshared, endpoint, keepalive, handshake := "(none)", "(none)", "off", int64(0)
		if p.Preshared {
			preshared = hidden
		}
		if p.Endpoint.IsValid() {
			endpoint = p.Endpoint.String()
		}
		if p.KeepaliveSeconds > 0 {
			keepalive = strconv.Itoa(int(p.KeepaliveSeconds))
		}
		if !p.LastHandshake.IsZero() {
			handshake = p.LastHandshake.Unix()
		}
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s\n", p.PublicKey, preshared, endpoint, prefixes(p.AllowedIPs, ","), handshake, p.RxBytes, p.TxBytes, keepalive)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func prefixes(all []netip.Prefix, between string) string {
	if len(all) == 0 {
		return "(none)"
	}
	words := make([]string, len(all))
	for i, p := range all {
		words[i] = p.String()
	}
	return strings.Join(words, between)
}

// wgAgo is how long ago something was that many seconds ago.
func wgAgo(seconds int64) string {
	switch {
	case seconds < 0:
		return "(System clock wound backward; connection problems may ensue.)"
	case seconds == 0:
		return "Now"
	}
	return wgTime(seconds) + " ago"
}

// wgTime is a positive number of seconds, as wg tells it.
func wgTime(seconds int64) string {
	const day = int64(24 * time.Hour / time.Second)
	var parts []string
	for _, unit := range []struct {
		name    string
		seconds int64
	}{{"year", 365 * day}, {"day", day}, {"hour", 3600}, {"minute", 60}, {"second", 1}} {
		n := seconds / unit.seconds
		seconds %= unit.seconds
		switch {
		case n == 1:
			parts = append(parts, "1 "+unit.name)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %ss", n, unit.name))
		}
	}
	return strings.Join(parts, ", ")
}

// wgBytes is a number of bytes, as wg tells it.
func wgBytes(n uint64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	unit, name := uint64(1<<40), "TiB"
	switch {
	case n < 1<<20:
		unit, name = 1<<10, "KiB"
	case n < 1<<30:
		unit, name = 1<<20, "MiB"
	case n < 1<<40:
		unit, name = 1<<30, "GiB"
	}
	return fmt.Sprintf("%.2f %s", float64(n)/float64(unit), name)
}
