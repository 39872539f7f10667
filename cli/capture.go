package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/tenantwire/tenantwire/sidecar/capture"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// captureFlags are the raw words of capture.
type captureFlags struct {
	file        string
	count, snap int
	duration    time.Duration
}

func (cs *commands) capture() *cobra.Command {
	var f captureFlags
	c := &cobra.Command{
		Use:   "capture POD [FILTER]",
		Short: "Show packets as they are inside the tunnel",
		Long: `Shows what a member or a gateway sends into the tunnel and gets from it, decrypted, until it is interrupted. With -w it writes a pcap file
for tcpdump and Wireshark, without it a line for each packet. What a gateway passes on is seen once, as it came.

The tunnel has to allow it, with spec.debug.capture: Allowed; a capture ends when it does so no more. It asks the pod's sidecar through
a forwarded port, which takes the right to create pods/portforward in the namespace; the sidecar's log and an Event of the pod tell of it.

FILTER is terms joined by "and" and "or", with "not" before a term if need be: host ADDRESS, net RANGE, port NUMBER, tcp, udp, icmp, and
peer NAME, which is a TunnelPeer, a member's pod or a public key.`,
		Example: `  kubectl tenantwire capture web-5d9c7b6f4-x2x7k port 80 and peer laptop
  kubectl tenantwire -n acme capture web-1 -w web.pcap --duration 30s
  kubectl tenantwire capture web-1 -w - | wireshark -k -i -`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("POD is missing")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			ask, err := f.parse(args[1:])
			if err != nil {
				return usageError{err}
			}
			if f.file == "-" && isTerminal(cs.Out) {
				return usagef("-w -: a terminal does not show a pcap file: pipe it, name a file, or leave -w out")
			}
			return cs.capturePod(c.Context(), args[0], args[1:], ask, f.file)
		},
	}
	p := c.Flags()
	p.StringVarP(&f.file, "write", "w", "", "write a pcap file, which only you may read; - is the standard output")
	p.IntVarP(&f.count, "count", "c", 0, "end after so many packets; 0: as many as come")
	p.IntVar(&f.snap, "snaplen", 0, "bytes of each packet, 40 to 65535; 0: whole packets")
	p.DurationVar(&f.duration, "duration", 0, "end after this time, at most an hour, as it does without")
	c.ValidArgsFunction = func(c *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return cs.memberNames(c.Context()), cobra.ShellCompDirectiveNoFileComp
	}
	return c
}

// parse checks all but the names of peers, which only the cluster knows; the filter is not in what it returns.
func (f *captureFlags) parse(words []string) (wire.Capture, error) {
	switch {
	case f.count < 0:
		return wire.Capture{}, fmt.Errorf("--count: %d is less than 0", f.count)
	case f.snap != 0 && (f.snap < wire.MinSnapLength || f.snap > wire.MaxSnapLength):
		return wire.Capture{}, fmt.Errorf("--snaplen: %d is not 0 or %d to %d bytes", f.snap, wire.MinSnapLength, wire.MaxSnapLength)
	case f.duration < 0 || f.duration > wire.MaxCaptureSeconds*time.Second:
		return wire.Capture{}, fmt.Errorf("--duration: %s is not a time of at most %s, for example 30s", f.duration, wire.MaxCaptureSeconds*time.Second)
	}
	filter, _ := withKeys(words, func(string) (string, error) { return key.Public{1}.String(), nil })
	if _, err := capture.ParseFilter(filter); err != nil {
		return wire.Capture{}, err
	}
	return wire.Capture{Count: f.count, SnapLength: f.snap, Seconds: int((f.duration + time.Second - 1) / time.Second)}, nil
}

// withKeys is a filter in which peers are named by their public keys, which find knows.
func withKeys(words []string, find func(name string) (string, error)) (string, error) {
	words = strings.Fields(strings.Join(words, " "))
	for i := 1; i < len(words); i++ {
		if words[i-1] != "peer" {
			continue
		}
		if _, err := key.ParsePublic(words[i]); err == nil {
			continue
		}
		k, err := find(words[i])
		if err != nil {
			return "", err
		}
		words[i] = k
	}
	return strings.Join(words, " "), nil
}

// publicKeyOf finds the public key of a TunnelPeer or, where there is none of that name, a member.
func (n *namespace) publicKeyOf(ctx context.Context, name string) (string, error) {
	var p v1alpha1.TunnelPeer
	err := n.client.Get(ctx, n.key(name), &p)
	if err == nil {
		return p.Spec.PublicKey, nil
	}
	if !apierrors.IsNotFound(err) {
		return "", fmt.Errorf("find peer %s: %w", name, err)
	}
	var m v1alpha1.TunnelMember
	switch err := n.client.Get(ctx, n.key(name), &m); {
	case apierrors.IsNotFound(err):
		return "", fmt.Errorf("filter: peer: namespace %s has no TunnelPeer and no member %q", n.name, name)
	case err != nil:
		return "", fmt.Errorf("find member %s: %w", name, err)
	case m.Status.PublicKey == "":
		return "", fmt.Errorf("filter: peer: member %s has no public key yet", name)
	}
	return m.Status.PublicKey, nil
}

func (cs *commands) capturePod(ctx context.Context, name string, filter []string, ask wire.Capture, file string) (err error) {
	n, err := cs.connect()
	if err != nil {
		return err
	}
	to, err := cs.captureTo(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.close()) }()
	begin, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	ask.Filter, err = withKeys(filter, func(name string) (string, error) { return n.publicKeyOf(begin, name) })
	if err != nil {
		return err
	}
	p, err := n.openPod(begin, name)
	if err != nil {
		return err
	}
	defer p.close()
	a, err := p.post(ctx, wire.CapturePath, ask)
	if err != nil {
		return err
	}
	defer a.close()
	cs.say("capturing in pod %s; interrupt to end", name)
	packets, err := copyPackets(a.Body, to)
	cs.say("%s", captured(packets, a.Trailer.Get(wire.DroppedTrailer), a.Trailer.Get(wire.EndTrailer)))
	if errors.Is(err, errCutOff) && ctx.Err() != nil {
		return nil // whoever interrupts has what there is
	}
	return err
}

// captured sums a capture up. What the sidecar said last may be missing.
func captured(n uint64, dropped, why string) string {
	s := strconv.FormatUint(n, 10) + " packets captured"
	if d, err := strconv.ParseUint(dropped, 10, 64); err == nil {
		s += fmt.Sprintf(", %d dropped for want of room", d)
	}
	if why = oneLine(why); why != "" && len(why) < 200 {
		s += "; " + why
	}
	return s
}

// errCutOff says that a capture did not end, but was.
var errCutOff = errors.New("the capture was cut off: the sidecar or the way to it is gone")

// copyPackets copies until the file ends, and returns how many packets there were.
func copyPackets(r io.Reader, to *captureFile) (n uint64, err error) {
	in, err := capture.NewReader(r)
	if err == nil {
		err = to.begin(in.SnapLength())
	}
	for err == nil {
		var p capture.Record
		if p, err = in.Next(); err != nil {
			break
		}
		if err = to.packet(p); err == nil {
			n++
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return n, nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return n, errCutOff
	}
	return n, err
}

// captureFile is where packets go: a pcap file, or lines of text.
type captureFile struct {
	out  io.Writer
	text bool
	pcap *capture.Writer // nil: not begun, or text
	file *os.File        // nil: the output
	buf  *bufio.Writer   // of file
}

func (cs *commands) captureTo(name string) (*captureFile, error) {
	if name == "" || name == "-" {
		return &captureFile{out: cs.Out, text: name == ""}, nil
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // the user says where
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("-w: %s exists already: choose another", name)
	}
	if err != nil {
		return nil, fmt.Errorf("-w: %w", err)
	}
	b := bufio.NewWriterSize(f, 64<<10)
	return &captureFile{out: b, file: f, buf: b}, nil
}

func (c *captureFile) begin(snapLength int) (err error) {
	if !c.text {
		c.pcap, err = capture.NewWriter(c.out, snapLength)
	}
	return err
}

func (c *captureFile) packet(p capture.Record) error {
	if c.pcap != nil {
		return c.pcap.Write(p)
	}
	said := "no IP packet"
	if h, ok := capture.Parse(p.Data); ok {
		said = h.String()
	}
	_, err := fmt.Fprintln(c.out, p.Time.Local().Format("15:04:05.000000"), said)
	return err
}

// close finishes a file, and removes one that was not begun.
func (c *captureFile) close() error {
	if c.file == nil {
		return nil
	}
	if c.pcap == nil {
		return errors.Join(c.file.Close(), os.Remove(c.file.Name()))
	}
	return errors.Join(c.buf.Flush(), c.file.Close())
}
