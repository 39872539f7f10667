package cli

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// addFlags are the raw words of peer add.
type addFlags struct {
	tunnel, endpoint, publicKey, expires, format, file string
	addresses, routes, allow, dns                      []string
	keepalive, mtu                                     int
	preshared, force, keep                             bool
	timeout                                            time.Duration
}

func (f *addFlags) register(p *pflag.FlagSet) {
	p.StringVar(&f.tunnel, "tunnel", "", "tunnel that the peer joins; needed where the namespace has several")
	p.StringSliceVar(&f.addresses, "address", nil, "the peer's own address inside the tunnel, one IPv4 and one IPv6 at most; left out, it is given some")
	p.StringSliceVar(&f.routes, "route", nil, "range of addresses behind the peer, for example 192.168.10.0/24")
	p.StringSliceVar(&f.allow, "allow", nil, "range that the peer sends into the tunnel besides the tunnel's own")
	p.StringVar(&f.endpoint, "endpoint", "", "HOST:PORT that the peer dials; left out, what the tunnel says, or else where the gateway's Service is reached")
	p.IntVar(&f.keepalive, "keepalive", 25, "seconds between packets that keep the way through NATs open; 0 is off")
	p.StringVar(&f.expires, "expires", "", "when the peer leaves the tunnel: in some time, for example 8h or 30d, or at one, for example 2027-01-31T18:00:00Z")
	p.BoolVar(&f.preshared, "preshared-key", false, "make a preshared key too, and keep it in the tunnel's Secret for the gateway")
	p.StringVar(&f.publicKey, "public-key", "", "public key of a private key that you made yourself; left out, one is made and goes into the config")
	p.IntVar(&f.mtu, "mtu", 0, "MTU of the peer's interface in bytes; left out, the tunnel's if it has one")
	p.StringSliceVar(&f.dns, "dns", nil, "DNS server or search domain that the peer uses while the tunnel is up")
	p.StringVarP(&f.format, "output", "o", string(formatConfig), "config: for wg-quick and the apps; qr: drawn on the terminal; png: a picture of it, with --file")
	p.StringVar(&f.file, "file", "", "write to this file, which only you may read, in place of the standard output")
	p.BoolVar(&f.force, "force", false, "with --file: write over a file that is there")
	p.BoolVar(&f.keep, "keep", false, "keep the peer also when something fails afterwards; a private key that was made for it is lost nevertheless")
	p.DurationVar(&f.timeout, "timeout", time.Minute, "how long to wait for the peer to be accepted and the gateway to be known")
}

// addition is what peer add is to do.
type addition struct {
	name, tunnel  string     // the tunnel may be empty: the only one
	public        key.Public // zero: a key is made
	addresses     []netip.Addr
	routes, allow []netip.Prefix
	endpoint      string    // empty: to be found
	expires       time.Time // zero: never
	preshared     bool
	keepalive     int // seconds
	mtu           int // bytes; 0: the tunnel's
	dns           []string
	format        format
	file          string
	force, keep   bool
	timeout       time.Duration
}

// parse reads the words of a command line; all its errors are of usage.
func (f *addFlags) parse(name string, now time.Time) (*addition, error) {
	a := &addition{name: name, tunnel: f.tunnel, keepalive: f.keepalive, mtu: f.mtu, preshared: f.preshared,
		format: format(f.format), file: f.file, force: f.force, keep: f.keep, timeout: f.timeout}
	for _, err := range []error{checkName(name), f.checkNumbers(), f.checkOutput()} {
		if err != nil {
			return nil, usageError{err}
		}
	}
	var err error
	if a.addresses, err = parseAll("--address", f.addresses, parseAddress); err == nil {
		err = checkFamilies(a.addresses)
	}
	if err == nil {
		a.routes, err = parseAll("--route", f.routes, parseRange)
	}
	if err == nil {
		a.allow, err = parseAll("--allow", f.allow, parseRange)
	}
	if err == nil {
		a.dns, err = parseAll("--dns", f.dns, parseDNS)
	}
	if err == nil && f.publicKey != "" {
		a.public, err = parseOne("--public-key", f.publicKey, key.ParsePublic)
	}
	if err == nil && f.endpoint != "" {
		a.endpoint, err = parseOne("--endpoint", f.endpoint, parseEndpoint)
	}
	if err == nil && f.expires != "" {
		a.expires, err = parseOne("--expires", f.expires, func(s string) (time.Time, error) { return parseExpiry(s, now) })
	}
	if err != nil {
		return nil, usageError{err}
	}
	return a, nil
}

// checkName refuses here what the API server would refuse after an entry for the preshared key has been made.
func checkName(name string) error {
	if errs := validation.IsDNS1123Subdomain(name); len(errs) > 0 {
		return fmt.Errorf("NAME: %q is not a name of lower-case letters, digits, dashes and dots that begins and ends with a letter or digit, for example laptop", name)
	}
	return nil
}

func (f *addFlags) checkNumbers() error {
	switch {
	case f.keepalive < 0 || f.keepalive > 65535:
		return fmt.Errorf("--keepalive: %d is not 0 to 65535 seconds", f.keepalive)
	case f.mtu != 0 && (f.mtu < 1280 || f.mtu > 65455):
		return fmt.Errorf("--mtu: %d is not 1280 to 65455 bytes", f.mtu)
	case f.timeout <= 0:
		return fmt.Errorf("--timeout: %s is not a time to wait, for example 60s", f.timeout)
	}
	return nil
}

func (f *addFlags) checkOutput() error {
	switch {
	case !slices.Contains([]format{formatConfig, formatQR, formatPNG}, format(f.format)):
		return fmt.Errorf("--output: %q is not config, qr or png", f.format)
	case format(f.format) == formatPNG && f.file == "":
		return fmt.Errorf("--output png: a picture needs --file, for example --file peer.png")
	case format(f.format) == formatQR && f.file != "":
		return fmt.Errorf("--output qr: it is drawn on the terminal; for --file say config or png")
	case format(f.format) != formatConfig && f.publicKey != "":
		return fmt.Errorf("--output %s: an app that reads it needs the private key in it, which --public-key keeps out; leave one of them out", f.format)
	case f.force && f.file == "":
		return fmt.Errorf("--force: there is no --file to write over")
	}
	return nil
}

func parseAll[T any](flag string, all []string, parse func(string) (T, error)) ([]T, error) {
	var out []T
	for _, s := range all {
		one, err := parseOne(flag, s, parse)
		if err != nil {
			return nil, err
		}
		out = append(out, one)
	}
	return out, nil
}

func parseOne[T any](flag, s string, parse func(string) (T, error)) (T, error) {
	one, err := parse(strings.TrimSpace(s))
	if err != nil {
		return one, fmt.Errorf("%s: %w", flag, err)
	}
	return one, nil
}

func parseAddress(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return a, fmt.Errorf("%q is not an IP address, for example 10.77.0.7", s)
	}
	return a, nil
}

func checkFamilies(addrs []netip.Addr) error {
	for i, a := range addrs {
		if slices.ContainsFunc(addrs[:i], func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			return fmt.Errorf("--address: %s is a second one of its family, want one IPv4 and one IPv6 address at most", a)
		}
	}
	return nil
}

func parseRange(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return p, fmt.Errorf("%q is not a range, for example 192.168.10.0/24", s)
	case p != p.Masked():
		return p, fmt.Errorf("%q has bits behind its length, want %s", s, p.Masked())
	}
	return p, nil
}

// parseDNS keeps anything from a config that is neither an address nor a name.
func parseDNS(s string) (string, error) {
	if _, err := parseAddress(s); err != nil && len(validation.IsDNS1123Subdomain(strings.ToLower(s))) > 0 {
		return "", fmt.Errorf("%q is neither the IP address of a server nor a search domain", s)
	}
	return s, nil
}

// parseExpiry reads how long from now, which may be in days, or when.
func parseExpiry(s string, now time.Time) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		in, notIn := time.ParseDuration(s)
		if days, isDays := strings.CutSuffix(s, "d"); isDays {
			var n uint64
			n, notIn = strconv.ParseUint(days, 10, 16)
			in = time.Duration(n) * 24 * time.Hour
		}
		if notIn != nil {
			return at, fmt.Errorf("%q is neither how long from now, for example 8h or 30d, nor a time, for example 2027-01-31T18:00:00Z", s)
		}
		at = now.Add(in)
	}
	if !at.After(now) {
		return at, fmt.Errorf("%s is over already", at.UTC().Format(time.RFC3339))
	}
	return at.UTC().Truncate(time.Second), nil
}
