package main

import (
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/agent"
)

// FuzzMember reads the words of --name, --own-port and --proxy, which the webhook makes of what people have written: each is in the options
// as it was written, or refused, and a proxy is nowhere but on the pod's own loopback.
func FuzzMember(f *testing.F) {
	f.Add("web=127.0.53.1", "8080/TCP", "SOCKS5=1080", "10.1.2.3")
	f.Add("web", "8080", "SOCKS5", "")
	f.Add("=127.0.0.1", "0/UDP", "SOCKS5=0", "::1")
	f.Add("a=b=127.0.0.1", "53/UDP", "HTTPConnect=65536", "fe80::1%eth0")
	f.Add("web=::1", "53/UDP", "HTTPConnect=3128", "10.1.2.3:80")
	f.Add("web=fe80::1%eth0", "53/UDP", "socks5=1080", "10.1.2.3")
	f.Fuzz(func(t *testing.T, name, port, proxy, podIP string) {
		if strings.ContainsRune(podIP, 0) {
			return // not to be had in an environment
		}
		t.Setenv("POD_IP", podIP)
		o, err := (&flags{coordinator: "https://coordinator", names: []string{name}, ownPorts: []string{port}, proxies: []string{proxy}}).member(slog.New(slog.DiscardHandler))
		if err != nil {
			return
		}
		if o.PodIP.String() == "" || !o.PodIP.IsValid() {
			t.Errorf("pod %s of %q", o.PodIP, podIP)
		}
		for n, a := range o.Names {
			if len(o.Names) != 1 || n == "" || strings.Contains(n, "=") || !a.IsValid() || !strings.HasPrefix(name, n+"=") || netip.MustParseAddr(name[len(n)+1:]) != a {
				t.Errorf("%q is %v", name, o.Names)
			}
		}
		if want, err := agent.ParsePort(port); err != nil || len(o.OwnPorts) != 1 || o.OwnPorts[0] != want {
			t.Errorf("%q is %v: %v", port, o.OwnPorts, err)
		}
		at, kind := o.SOCKS5, "SOCKS5"
		if o.HTTPConnect.IsValid() {
			at, kind = o.HTTPConnect, "HTTPConnect"
		}
		n, err := strconv.Atoi(strings.TrimPrefix(proxy, kind+"="))
		if err != nil || o.SOCKS5.IsValid() == o.HTTPConnect.IsValid() || at != netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(n)) || n < 1 || n > 65535 {
			t.Errorf("%q is %s and %s: %v", proxy, o.SOCKS5, o.HTTPConnect, err)
		}
	})
}

// FuzzFlags parses a whole command line: what is taken says where from, one way alone.
func FuzzFlags(f *testing.F) {
	f.Add("--coordinator\nhttps://c\n--name\nweb=127.0.53.1\n--drain\n5s")
	f.Add("--config\n/etc/x\n--check")
	f.Add("--config\na\n--coordinator\nb")
	f.Add("--version")
	f.Add("--listen-port\n65536\n--config\nx")
	f.Add("--config\nx\nword")
	f.Fuzz(func(t *testing.T, line string) {
		var words []string
		for word := range strings.SplitSeq(line, "\n") {
			if name, _, _ := strings.Cut(word, "="); name == "-h" || name == "--help" {
				return // prints the usage
			}
			words = append(words, word)
		}
		var got flags
		if err := got.parse(words); err != nil {
			return
		}
		if !got.version && (got.config == "") == (got.coordinator == "") {
			t.Errorf("%q: from %q and %q", words, got.config, got.coordinator)
		}
		var again flags
		if err := again.parse(words); err != nil || again.config != got.config || again.listenPort != got.listenPort {
			t.Errorf("%q: %+v, then %+v, %v", words, got, again, err)
		}
	})
}
