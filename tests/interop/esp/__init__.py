"""ESP beside other implementations: the packets of native/esp, and a guest with Linux' own."""
