package capture

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// packet is an IP packet with a transport header's first eight bytes and a payload.
func packet(from, to string, protocol byte, payload string) []byte {
	src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	var b []byte
	if src.Addr().Is4() {
		b = make([]byte, 20)
		b[0], b[8], b[9] = 0x45, 64, protocol
		binary.BigEndian.PutUint16(b[2:], uint16(20+8+len(payload)))
		copy(b[12:], src.Addr().AsSlice())
		copy(b[16:], dst.Addr().AsSlice())
	} else {
		b = make([]byte, 40)
		b[0], b[6], b[7] = 0x60, protocol, 64
		binary.BigEndian.PutUint16(b[4:], uint16(8+len(payload)))
		copy(b[8:], src.Addr().AsSlice())
		copy(b[24:], dst.Addr().AsSlice())
	}
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	b = append(b, 0, 0)
	return append(b, payload...)
}

var (
	tcp4 = packet("10.77.0.2:40000", "10.77.0.3:80", protocolTCP, "GET /")
	udp6 = packet("[fd07::2]:5000", "[fd07::3]:53", protocolUDP, "name")
	ping = packet("10.77.0.2:2048", "192.168.10.9:1", protocolICMP, "")
)

func TestParse(t *testing.T) {
	extended := append([]byte{}, udp6[:40]...)
	extended[6] = hopByHop
	extended = append(extended, fragmentHeader, 0, 0, 0, 0, 0, 0, 0)
	extended = append(extended, protocolUDP, 0, 0, 1, 0, 0, 0, 7) // the first fragment, and more follow
	extended = append(extended, udp6[40:]...)
	binary.BigEndian.PutUint16(extended[4:], uint16(len(extended)-40))
	later := bytes.Clone(extended)
	later[40+8+3] = 0x09 // offset 1
	fragment4 := bytes.Clone(tcp4)
	fragment4[7] = 1
	for _, c := range []struct {
		name string
		in   []byte
		want string // empty: none
	}{
		{"TCP", tcp4, "10.77.0.2:40000 > 10.77.0.3:80: TCP, 33 bytes"},
		{"padding", append(bytes.Clone(tcp4), 0, 0, 0), "10.77.0.2:40000 > 10.77.0.3:80: TCP, 33 bytes"},
		{"cut off", tcp4[:20], "10.77.0.2 > 10.77.0.3: TCP, 33 bytes"},
		{"UDP", udp6, "[fd07::2]:5000 > [fd07::3]:53: UDP, 52 bytes"},
		{"ICMP has no ports", ping, "10.77.0.2 > 192.168.10.9: ICMP, 28 bytes"},
		{"extension headers", extended, "[fd07::2]:5000 > [fd07::3]:53: UDP, 68 bytes"},
		{"a later fragment", later, "fd07::2 > fd07::3: UDP, 68 bytes"},
		{"a later fragment of IPv4", fragment4, "10.77.0.2 > 10.77.0.3: TCP, 33 bytes"},
		{"nothing", nil, ""},
		{"no IP", []byte("1 is the version of what is not a packet of the Internet"), ""},
		{"too short", tcp4[:19], ""},
		{"header length", append([]byte{0x44}, tcp4[1:]...), ""},
	} {
		p, ok := Parse(c.in)
		if got := p.String(); ok != (c.want != "") || ok && got != c.want {
			t.Errorf("%s: %q, %v, want %q", c.name, got, ok, c.want)
		}
	}
}

func TestFilter(t *testing.T) {
	k := key.NewPrivate().Public()
	for text, want := range map[string][3]bool{ // of tcp4, udp6, ping
		"":                       {true, true, true},
		"tcp":                    {true, false, false},
		"icmp":                   {false, false, true},
		"not udp":                {true, false, true},
		"not not udp":            {false, true, false},
		"port 53":                {false, true, false},
		"port 80 or port 53":     {true, true, false},
		"host 10.77.0.2":         {true, false, true},
		"host 10.77.0.3 and tcp": {true, false, false},
		"net fd07::/64":          {false, true, false},
		"net 192.168.10.1/24":    {false, false, true},
		"tcp and port 53 or icmp and host 10.77.0.2": {false, false, true},
		"peer " + k.String():                         {false, false, true},
		"not peer " + k.String() + " and not udp":    {true, false, false},
	} {
		f, err := ParseFilter(text)
		if err == nil {
			err = f.Resolve(func(asked key.Public) ([]netip.Prefix, bool) {
				return []netip.Prefix{netip.MustParsePrefix("192.168.10.0/24")}, asked == k
			})
		}
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		for i, b := range [][]byte{tcp4, udp6, ping} {
			if p, _ := Parse(b); f.Match(&p) != want[i] {
				t.Errorf("%q picks %s: %v", text, p, !want[i])
			}
		}
	}
}

func TestFilterRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"host":                        "host: a value is missing",
		"host web":                    `host: "web" is not an IP address, for example`,
		"host fe80::1%eth0":           "is not an IP address",
		"net 10.0.0.0":                `net: "10.0.0.0" is not a range, for example`,
		"port 0":                      `port: "0" is not a number from 1 to 65535`,
		"port http":                   `port: "http" is not`,
		"peer laptop":                 `peer: "laptop" is not a peer's public key`,
		"tcp udp":                     `"udp": want and, or, or nothing more`,
		"tcp and":                     "it ends where a term is wanted",
		"not":                         "it ends where a term is wanted",
		"dst port 80":                 `"dst" is not host, net, port, peer, tcp, udp or icmp`,
		strings.Repeat("x", 1025):     "1025 bytes, want at most 1024",
		strings.Repeat("tcp or ", 33): "more than 32 terms",
	} {
		if _, err := ParseFilter(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v does not say %q", text, err, want)
		}
	}
	f, err := ParseFilter("peer " + key.NewPrivate().Public().String())
	if err != nil {
		t.Fatal(err)
	}
	if p, _ := Parse(tcp4); f.Match(&p) {
		t.Error("a peer that nobody looked for picks packets")
	}
	if err := f.Resolve(func(key.Public) ([]netip.Prefix, bool) { return nil, false }); err == nil || !strings.Contains(err.Error(), "is not a peer of this pod") {
		t.Errorf("a stranger: %v", err)
	}
}

// What is taken comes out as a file that other programs read: bounded packets, whole sizes, no padding.
func TestCopy(t *testing.T) {
	f, err := ParseFilter("tcp or udp")
	if err != nil {
		t.Fatal(err)
	}
	tap := NewTap(wire.Capture{SnapLength: 40, Count: 3}, f)
	var file bytes.Buffer
	done := make(chan error, 1)
	go func() { done <- tap.Copy(t.Context(), &file, func() error { return nil }) }()
	for _, b := range [][]byte{ping, append(bytes.Clone(tcp4), 0, 0), udp6, tcp4, tcp4} {
		tap.Take(b)
	}
	if err := <-done; !ErrEnough(err) {
		t.Fatal(err)
	}
	if c := tap.Counts(); c != (Counts{Captured: 3}) {
		t.Errorf("%+v", c)
	}
	r, err := NewReader(bytes.NewReader(file.Bytes()))
	if err != nil || r.SnapLength() != 40 {
		t.Fatal(r, err)
	}
	for i, want := range [][]byte{tcp4, udp6, tcp4} {
		got, err := r.Next()
		if err != nil || !bytes.Equal(got.Data, want[:min(40, len(want))]) || got.Size != len(want) || time.Since(got.Time) > time.Hour {
			t.Errorf("packet %d: %+v, %v", i, got, err)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last: %v", err)
	}
	tcpdumpReads(t, file.Bytes(), "10.77.0.2.40000 > 10.77.0.3.80", "fd07::2.5000 > fd07::3.53")
}

// tcpdumpReads has another program read the file, where there is one.
func tcpdumpReads(t *testing.T, file []byte, want ...string) {
	t.Helper()
	program, err := exec.LookPath("tcpdump")
	if err != nil {
		t.Log("no tcpdump here: the file was read by our own reader alone")
		return
	}
	name := filepath.Join(t.TempDir(), "capture.pcap")
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), program, "-n", "-r", name).CombinedOutput()
	for _, w := range want {
		if err != nil || !strings.Contains(string(out), w) {
			t.Errorf("tcpdump does not show %q: %v\n%s", w, err, out)
		}
	}
}

// Whoever does not read costs packets, which are counted, and never holds up the data path.
func TestNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tap := NewTap(wire.Capture{}, Filter{})
		ctx, cancel := context.WithCancelCause(t.Context())
		reading, in := make(chan struct{}), 0
		var got bytes.Buffer
		done := make(chan error, 1)
		go func() {
			done <- tap.Copy(ctx, &got, func() error { <-reading; return nil })
		}()
		big := packet("10.77.0.2:1", "10.77.0.3:2", protocolUDP, strings.Repeat("x", 60_000))
		for range 100 {
			tap.Take(big)
			in++
		}
		synctest.Wait()
		over := errors.New("over")
		cancel(over)
		close(reading)
		if err := <-done; !errors.Is(err, over) {
			t.Fatal(err)
		}
		c := tap.Counts()
		r, err := NewReader(&got)
		if err != nil {
			t.Fatal(err)
		}
		var out uint64
		for ; ; out++ {
			if _, err := r.Next(); err != nil {
				break
			}
		}
		if c.Dropped == 0 || c.Captured+c.Dropped != uint64(in) || out != c.Captured {
			t.Errorf("%+v of %d packets, %d in the file", c, in, out)
		}
	})
}

func TestManySenders(t *testing.T) {
	tap := NewTap(wire.Capture{Count: 500}, Filter{})
	done := make(chan error, 1)
	go func() { done <- tap.Copy(t.Context(), io.Discard, func() error { return nil }) }()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 1000 {
				tap.Take(tcp4)
			}
		})
	}
	all.Wait()
	if err := <-done; !ErrEnough(err) || tap.Counts().Captured != 500 {
		t.Error(err, tap.Counts())
	}
}

func TestTakeDoesNotAllocate(t *testing.T) {
	f, err := ParseFilter("tcp and port 81 or net 10.99.0.0/16 or udp")
	if err != nil {
		t.Fatal(err)
	}
	tap := NewTap(wire.Capture{}, f)
	if n := testing.AllocsPerRun(100, func() { tap.Take(tcp4); tap.Take(udp6) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{"", "tcp and port 80", "not host 10.0.0.1 or net fd00::/8", "peer x", "port 99999"} {
		f.Add(s, tcp4)
	}
	f.Add("icmp or udp", udp6)
	f.Fuzz(func(_ *testing.T, text string, packet []byte) {
		filter, err := ParseFilter(text)
		if err != nil {
			return
		}
		if p, ok := Parse(packet); ok {
			filter.Match(&p)
			_ = p.String()
		}
	})
}

// What a pod sends is what whoever can write into it decides.
func FuzzReader(f *testing.F) {
	var good bytes.Buffer
	w, _ := NewWriter(&good, 100)
	_ = w.Write(Record{time.Unix(1, 2), tcp4, len(tcp4)})
	_ = w.Write(Record{time.Unix(3, 4), udp6[:41], len(udp6)})
	f.Add(good.Bytes())
	f.Add(good.Bytes()[:30])
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := NewReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		w, err := NewWriter(&again, r.SnapLength())
		if err != nil {
			t.Fatal(err)
		}
		for {
			p, err := r.Next()
			if err != nil {
				break
			}
			if len(p.Data) > r.SnapLength() || p.Size < len(p.Data) {
				t.Fatalf("%+v", p)
			}
			if err := w.Write(p); err != nil {
				t.Fatal(err)
			}
		}
		if n := again.Len(); !bytes.Equal(again.Bytes()[fileHeader:], b[fileHeader:n]) {
			t.Error("what is written is not what was read")
		}
	})
}
