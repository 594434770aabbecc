using System;
using System.Text;

namespace Everscene
{
    /// <summary>
    /// The handshake: greetings of 64 bytes cross, then READY both ways, or with a token PLAIN's
    /// HELLO → WELCOME → INITIATE → READY. We hold the second part of our greeting back until the server's has named its
    /// mechanism, so that a token is never sent to a server that does not ask for one.
    /// </summary>
    public sealed partial class ZmtpConnection
    {
        const int GreetingBytes = 64;
        const string User = "everscene";

        void ShakeHands(string socketType, string token)
        {
            SendRaw(GreetingStart());
            bool plain = ReadGreeting();
            if (plain && string.IsNullOrEmpty(token)) throw new ConnectionException("this server needs a token", true);
            SendRaw(GreetingRest(plain ? "PLAIN" : "NULL"));
            if (plain)
            {
                SendCommand(PlainHello(token));
                Expect("WELCOME");
                SendCommand(Ready("INITIATE", socketType));
            }
            else SendCommand(Ready("READY", socketType));
            int length = Expect("READY");
            CheckPeer(socketType, length);
        }

        /// <summary>Signature and version, all that the server needs before it shows its whole greeting.</summary>
        public static byte[] GreetingStart() => new byte[] { 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 3, 1 };

        /// <summary>Mechanism, as-server 0, filler.</summary>
        public static byte[] GreetingRest(string mechanism)
        {
            var rest = new byte[GreetingBytes - 12];
            Encoding.ASCII.GetBytes(mechanism, 0, mechanism.Length, rest, 0);
            return rest;
        }

        /// <summary>READY or INITIATE with the socket's type. No identity: the server gives each connection its own.</summary>
        public static byte[] Ready(string name, string socketType)
        {
            byte[] head = Words(name, "\x0BSocket-Type");
            var body = new byte[head.Length + 4 + socketType.Length];
            Buffer.BlockCopy(head, 0, body, 0, head.Length);
            body[head.Length + 3] = (byte)socketType.Length;
            Encoding.ASCII.GetBytes(socketType, 0, socketType.Length, body, head.Length + 4);
            return body;
        }

        /// <summary>PLAIN's HELLO: user and token, each with its length before it.</summary>
        /// <exception cref="ConnectionException">The token is longer than 255 bytes of UTF-8.</exception>
        public static byte[] PlainHello(string token)
        {
            byte[] password = Encoding.UTF8.GetBytes(token);
            if (password.Length > 255)
                throw new ConnectionException("a token has at most 255 bytes, this one " + password.Length, true);
            byte[] head = Words("HELLO", (char)User.Length + User);
            var body = new byte[head.Length + 1 + password.Length];
            Buffer.BlockCopy(head, 0, body, 0, head.Length);
            body[head.Length] = (byte)password.Length;
            Buffer.BlockCopy(password, 0, body, head.Length + 1, password.Length);
            return body;
        }

        /// <summary>
        /// The reason in an ERROR command: <c>5 "ERROR" length reason</c>, or <c>^ "RROR" length reason</c> as libzmq up
        /// to 4.3.5 spells it by mistake.
        /// </summary>
        public static bool ErrorReason(byte[] body, int length, out string reason)
        {
            reason = null;
            int at;
            if (length >= 7 && NameIs(body, "ERROR")) at = 6;
            else if (length >= 6 && body[0] == '^' && Encoding.ASCII.GetString(body, 1, 4) == "RROR") at = 5;
            else return false;
            reason = Encoding.ASCII.GetString(body, at + 1, Math.Min(body[at], length - at - 1));
            return true;
        }

        // True for PLAIN, false for NULL.
        bool ReadGreeting()
        {
            Fill(10);
            if (inbox[inboxAt] != 0xFF || inbox[inboxAt + 9] != 0x7F)
                throw Broken("no greeting. Does another program use this port?");
            Fill(11);
            if (inbox[inboxAt + 10] < 3) throw Broken("a greeting of ZMTP " + inbox[inboxAt + 10] + ", we speak 3");
            Fill(GreetingBytes);
            string mechanism = Encoding.ASCII.GetString(inbox, inboxAt + 12, 20).TrimEnd('\0');
            inboxAt += GreetingBytes;
            if (mechanism != "NULL" && mechanism != "PLAIN")
                throw new ConnectionException("the server asks for " + mechanism + ", we speak NULL and PLAIN", true);
            return mechanism == "PLAIN";
        }

        // Reads commands up to the one wanted; its body stays in `command`.
        int Expect(string name)
        {
            while (true)
            {
                int flags = ReadHeader(command.Length, out int length);
                if ((flags & 4) == 0) throw Broken("a message in the handshake");
                ReadBytes(command, 0, length);
                string reason;
                if (ErrorReason(command, length, out reason))
                    throw reason == "400" ? new ConnectionException("the server refused the token", true)
                                          : new ConnectionException("the server refused the handshake: " + reason, true);
                if (length > name.Length && NameIs(command, name)) return length;
                if (length >= 7 && NameIs(command, "PING")) SendPong(length);
            }
        }

        // A SUB on a ROUTER would be closed without a word; this says which port was meant.
        void CheckPeer(string socketType, int length)
        {
            string peer = null;
            for (int at = 6; at < length;)
            {
                int nameLength = command[at++];
                int valueAt = at + nameLength + 4;
                if (valueAt > length) throw Broken("metadata that ends too early");
                string name = Encoding.ASCII.GetString(command, at, nameLength);
                int size = command[valueAt - 2] << 8 | command[valueAt - 1];
                if (valueAt + size > length) throw Broken("metadata that ends too early");
                if (name.Equals("Socket-Type", StringComparison.OrdinalIgnoreCase))
                    peer = Encoding.ASCII.GetString(command, valueAt, size);
                at = valueAt + size;
            }
            bool fits = socketType == "DEALER" ? peer == "ROUTER" : peer == "XPUB" || peer == "PUB";
            if (!fits)
                throw new ConnectionException(
                    endpoint + " is a " + peer + " socket, not the one for " + (socketType == "DEALER" ? "control" : "frames")
                    + ": is it the right port?", true);
        }

        void SendRaw(byte[] bytes)
        {
            lock (sending)
            {
                Buffer.BlockCopy(bytes, 0, outbox, 0, bytes.Length);
                SendOutbox(bytes.Length);
            }
        }

        void SendCommand(byte[] body) => SendFrame(body, body.Length, 4);

        static bool NameIs(byte[] body, string name)
        {
            if (body[0] != name.Length) return false;
            for (int i = 0; i < name.Length; i++)
                if (body[i + 1] != name[i]) return false;
            return true;
        }

        // A command's name with its length before it, and text (ASCII) after it.
        static byte[] Words(string name, string text) => Encoding.ASCII.GetBytes((char)name.Length + name + text);
    }
}
