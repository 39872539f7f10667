package auto

import (
	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/kernel"
	"github.com/tenantwire/tenantwire/sidecar/tun"
)

func systemOpeners() []opener {
	return []opener{
		{kind: datapath.Kernel, hubByName: true, probe: kernel.Probe,
			open: func(o Options) (datapath.Datapath, error) { return opened(kernel.Open(kernel.Options(o))) }},
		{kind: datapath.TUN, probe: tun.Probe, open: func(o Options) (datapath.Datapath, error) { return opened(tun.Open(tun.Options(o))) }},
	}
}
