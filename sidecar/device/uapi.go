package device

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// config is a change of the engine's configuration; nil and zero fields stay as they are. Every field is of a type whose text
// form cannot hold a line break, so no value can become a line of its own.
type config struct {
	PrivateKey *key.Private
	ListenPort *uint16
	Peers      []delta.Change
}

// writeConfig writes c as WireGuard's cross-platform configuration protocol has it. It never writes replace_peers: other
// peers' sessions are none of a delta's business.
func writeConfig(w io.Writer, c config) error {
	b := bufio.NewWriter(w)
	line := func(name, value string) {
		_, _ = b.WriteString(name) // bufio keeps the first error for Flush
		_ = b.WriteByte('=')
		_, _ = b.WriteString(value)
		_ = b.WriteByte('\n')
	}
	if c.PrivateKey != nil {
		line("private_key", c.PrivateKey.Hex())
	}
	if c.ListenPort != nil {
		line("listen_port", strconv.FormatUint(uint64(*c.ListenPort), 10))
	}
	for _, p := range c.Peers {
		line("public_key", p.PublicKey.Hex())
		if p.Remove {
			line("remove", "true")
			continue
		}
		if p.PresharedKey != nil {
			line("preshared_key", p.PresharedKey.Hex())
		}
		if p.New {
			line("endpoint", p.PublicKey.Hex()) // see bind.ParseEndpoint
		}
		if p.Keepalive != nil {
			line("persistent_keepalive_interval", strconv.FormatUint(uint64(*p.Keepalive), 10))
		}
		if p.ReplaceAllowedIPs {
			line("replace_allowed_ips", "true")
		}
		for _, ip := range p.AllowedIPs {
			line("allowed_ip", ip.String())
		}
	}
	return b.Flush()
}

// status is what the engine reports.
type status struct {
	ListenPort uint16
	Peers      []datapath.PeerStats
}

var errNoPeer = errors.New("before any public_key")

// parseStatus reads the engine's report. Lines that it does not know are skipped, secret keys among them.
func parseStatus(r io.Reader) (status, error) {
	var st status
	in := bufio.NewScanner(r)
	for in.Scan() && in.Text() != "" {
		name, value, ok := strings.Cut(in.Text(), "=")
		if !ok {
			return status{}, errors.New("engine state: a line without =")
		}
		if err := st.parseLine(name, value); err != nil {
			return status{}, fmt.Errorf("engine state: %s: %w", name, err)
		}
	}
	if err := in.Err(); err != nil {
		return status{}, fmt.Errorf("engine state: %w", err)
	}
	return st, nil
}

func (st *status) parseLine(name, value string) error {
	switch name {
	case "listen_port":
		n, err := strconv.ParseUint(value, 10, 16)
		st.ListenPort = uint16(n)
		return err
	case "public_key":
		k, err := publicFromHex(value)
		st.Peers = append(st.Peers, datapath.PeerStats{PublicKey: k})
		return err
	case "endpoint", "rx_bytes", "tx_bytes", "allowed_ip", "last_handshake_time_sec", "last_handshake_time_nsec":
		if len(st.Peers) == 0 {
			return errNoPeer
		}
		return parsePeerLine(&st.Peers[len(st.Peers)-1], name, value)
	}
	return nil
}

func parsePeerLine(p *datapath.PeerStats, name, value string) (err error) {
	switch name {
	case "endpoint":
		if value != "" { // bind's word for unknown
			p.Endpoint, err = netip.ParseAddrPort(value)
		}
	case "last_handshake_time_sec", "last_handshake_time_nsec":
		var n int64
		if n, err = strconv.ParseInt(value, 10, 64); err != nil || n == 0 {
			return err // a zero adds nothing: never stays the zero time
		}
		at := p.LastHandshake
		if at.IsZero() {
			at = time.Unix(0, 0)
		}
		if name == "last_handshake_time_sec" {
			p.LastHandshake = time.Unix(n, int64(at.Nanosecond()))
		} else {
			p.LastHandshake = time.Unix(at.Unix(), n)
		}
	case "rx_bytes":
		p.RxBytes, err = strconv.ParseUint(value, 10, 64)
	case "tx_bytes":
		p.TxBytes, err = strconv.ParseUint(value, 10, 64)
	case "allowed_ip":
		var ip netip.Prefix
		ip, err = netip.ParsePrefix(value)
		p.AllowedIPs = append(p.AllowedIPs, ip)
	}
	return err
}

func publicFromHex(s string) (k key.Public, err error) {
	if len(s) != hex.EncodedLen(key.Size) {
		return k, fmt.Errorf("want %d hex digits", hex.EncodedLen(key.Size))
	}
	if _, err := hex.Decode(k[:], []byte(s)); err != nil {
		return key.Public{}, errors.New("not hexadecimal")
	}
	return k, nil
}
