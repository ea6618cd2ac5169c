// A WireGuard peer without a device of the kernel, for the test beside this file.
//
// Lines of standard input that are not empty are configuration of wireguard-go's own protocol,
// an empty line applies them. Every packet that comes out of the tunnel is sent back into it
// with its addresses exchanged, and printed. No packet of the host is touched.
package main

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun/tuntest"
)

func echo(tunnel *tuntest.ChannelTUN) {
	for packet := range tunnel.Inbound {
		fmt.Printf("packet %x\n", packet)
		reply := append([]byte(nil), packet...)
		copy(reply[12:16], packet[16:20])
		copy(reply[16:20], packet[12:16])
		tunnel.Outbound <- reply
	}
}

func main() {
	tunnel := tuntest.NewChannelTUN()
	logger := device.NewLogger(device.LogLevelError, "wireguard: ")
	peer := device.NewDevice(tunnel.TUN(), conn.NewDefaultBind(), logger)
	go echo(tunnel)
	lines := bufio.NewScanner(os.Stdin)
	var pending []string
	for lines.Scan() {
		if line := lines.Text(); line != "" {
			pending = append(pending, line)
			continue
		}
		if err := peer.IpcSet(strings.Join(pending, "\n") + "\n"); err != nil {
			fmt.Printf("error %v\n", err)
			os.Exit(1)
		}
		pending = nil
		if err := peer.Up(); err != nil {
			fmt.Printf("error %v\n", err)
			os.Exit(1)
		}
		state, err := peer.IpcGet()
		if err != nil {
			fmt.Printf("error %v\n", err)
			os.Exit(1)
		}
		for _, line := range strings.Split(state, "\n") {
			if port, found := strings.CutPrefix(line, "listen_port="); found {
				fmt.Printf("port %s\n", port)
			}
		}
	}
	peer.Close()
}
