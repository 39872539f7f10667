package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"

	"github.com/tenantwire/tenantwire/sidecar/key"
)

// attacker is upstream WireGuard inside a pod's network, with whatever key it got hold of, one peer, and no rules of its own: it
// sends any inner packet to any address from any address.
type attacker struct {
	t   *testing.T
	dev *device.Device
	tun *tuntest.ChannelTUN
}

// bindInside opens its sockets in a network namespace, whichever goroutine asks.
type bindInside struct {
	conn.Bind
	ns string
}

func (b bindInside) Open(port uint16) (fns []conn.ReceiveFunc, actual uint16, err error) {
	err = invInside(b.ns, func() error {
		fns, actual, err = b.Bind.Open(port)
		return err
	})
	return fns, actual, err
}

// newAttacker makes an attacker that hands everything it sends to the given peer.
func newAttacker(t *testing.T, ns string, private key.Private, peer key.Public, endpoint string) *attacker {
	t.Helper()
	a := &attacker{t: t, tun: tuntest.NewChannelTUN()}
	a.dev = device.NewDevice(a.tun.TUN(), bindInside{conn.NewDefaultBind(), ns}, device.NewLogger(device.LogLevelSilent, ""))
	t.Cleanup(a.dev.Close)
	err := a.dev.IpcSet(fmt.Sprintf("private_key=%s\npublic_key=%s\nendpoint=%s\nallowed_ip=0.0.0.0/0\nallowed_ip=::/0\npersistent_keepalive_interval=1\n",
		private.Hex(), peer.Hex(), endpoint))
	if err == nil {
		err = a.dev.Up()
	}
	if err != nil {
		t.Fatalf("start an attacker: %v", err)
	}
	return a
}

// handshaken says whether the peer answered a handshake within a time.
func (a *attacker) handshaken(within time.Duration) bool {
	a.t.Helper()
	for end := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		text, err := a.dev.IpcGet()
		if err != nil {
			a.t.Fatal(err)
		}
		for line := range strings.Lines(text) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			if n, _ := strconv.ParseInt(v, 10, 64); k == "last_handshake_time_sec" && n > 0 {
				return true
			}
			if n, _ := strconv.ParseInt(v, 10, 64); k == "rx_bytes" && n > 0 {
				return true
			}
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// syn opens a TCP connection by hand, inside the tunnel, and returns what comes back: "" for nothing, "SYN-ACK" or "RST".
func (a *attacker) syn(from, to netip.AddrPort, within time.Duration) string {
	a.t.Helper()
	for { // what is left of earlier ones
		select {
		case <-a.tun.Inbound:
			continue
		default:
		}
		break
	}
	for end := time.Now().Add(within); time.Now().Before(end); {
		a.tun.Outbound <- synPacket(from, to)
		again := time.After(min(within/3, time.Second))
	answers:
		for {
			select {
			case b := <-a.tun.Inbound:
				if flags, ok := tcpAnswer(b, to, from); ok {
					return flags
				}
			case <-again:
				break answers
			}
		}
	}
	return ""
}

const (
	flagSYN = 1 << 1
	flagRST = 1 << 2
	flagACK = 1 << 4
)

// synPacket is an IP packet with a TCP SYN.
func synPacket(from, to netip.AddrPort) []byte {
	tcp := make([]byte, 20)
	binary.BigEndian.PutUint16(tcp[0:], from.Port())
	binary.BigEndian.PutUint16(tcp[2:], to.Port())
	binary.BigEndian.PutUint32(tcp[4:], 1000)
	tcp[12], tcp[13] = 5<<4, flagSYN
	binary.BigEndian.PutUint16(tcp[14:], 65535)
	src, dst := from.Addr().AsSlice(), to.Addr().AsSlice()
	pseudo := append(append([]byte{}, src...), dst...)
	pseudo = append(pseudo, 0, 6, 0, byte(len(tcp)))
	binary.BigEndian.PutUint16(tcp[16:], checksum(append(pseudo, tcp...)))
	if to.Addr().Is4() {
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, 6
		binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+len(tcp)))
		copy(ip[12:], src)
		copy(ip[16:], dst)
		binary.BigEndian.PutUint16(ip[10:], checksum(ip))
		return append(ip, tcp...)
	}
	ip := make([]byte, 40)
	ip[0], ip[6], ip[7] = 0x60, 6, 64
	binary.BigEndian.PutUint16(ip[4:], uint16(len(tcp)))
	copy(ip[8:], src)
	copy(ip[24:], dst)
	return append(ip, tcp...)
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// tcpAnswer reads a TCP packet between two addresses.
func tcpAnswer(b []byte, from, to netip.AddrPort) (string, bool) {
	var src, dst netip.Addr
	var tcp []byte
	switch {
	case len(b) >= 40 && b[0]>>4 == 4 && b[9] == 6:
		src, dst, tcp = netip.AddrFrom4([4]byte(b[12:])), netip.AddrFrom4([4]byte(b[16:])), b[int(b[0]&15)*4:]
	case len(b) >= 60 && b[0]>>4 == 6 && b[6] == 6:
		src, dst, tcp = netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[24:])), b[40:]
	}
	if len(tcp) < 20 || netip.AddrPortFrom(src, binary.BigEndian.Uint16(tcp)) != from || netip.AddrPortFrom(dst, binary.BigEndian.Uint16(tcp[2:])) != to {
		return "", false
	}
	switch flags := tcp[13]; {
	case flags&flagRST != 0:
		return "RST", true
	case flags&(flagSYN|flagACK) == flagSYN|flagACK:
		return "SYN-ACK", true
	}
	return "", false
}
