"""The handshake beside real wireguard-go."""
