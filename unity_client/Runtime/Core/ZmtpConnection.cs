using System;
using System.Net;
using System.Net.Sockets;
using System.Threading;

namespace Everscene
{
    /// <summary>
    /// One TCP connection that speaks ZMTP 3.1 (rfc.zeromq.org/spec/37): frames in, frames out, PING answered.
    /// A frame is <c>flags, length, body</c>; flag 1 = more parts follow, 2 = the length takes 8 bytes, 4 = a command.
    /// One thread receives; any thread may send or <see cref="Abort"/>, which ends a blocked receive at once.
    /// Receiving allocates nothing while the target buffer is large enough.
    /// </summary>
    public sealed partial class ZmtpConnection : IDisposable
    {
        public const int SilenceMs = 12000; // the server pings every 2 s, so this long without a byte means it is gone
        const int HandshakeMs = 5000;
        const int ConnectMs = 5000;
        const int SendMs = 5000;

        readonly Socket socket;
        readonly Endpoint endpoint;
        readonly object sending = new object();
        readonly byte[] inbox = new byte[64 * 1024];
        byte[] outbox = new byte[1024];
        byte[] command = new byte[512];
        int inboxAt;
        int inboxEnd;
        int patienceMs;
        int aborted;

        ZmtpConnection(Socket socket, Endpoint endpoint)
        {
            this.socket = socket;
            this.endpoint = endpoint;
        }

        /// <summary>
        /// Connects and shakes hands as <paramref name="socketType"/> (DEALER or SUB); with a token as PLAIN if the
        /// server asks for it. Gives up at once when <paramref name="stop"/> is set.
        /// </summary>
        /// <exception cref="ConnectionException">Fatal where the token or the port is wrong.</exception>
        public static ZmtpConnection Open(Endpoint endpoint, string socketType, string token, WaitHandle stop)
        {
            var connection = new ZmtpConnection(Dial(endpoint, stop), endpoint);
            // Without this a stop in the middle of the handshake would wait for the handshake's own timeout.
            RegisteredWaitHandle watch = ThreadPool.RegisterWaitForSingleObject(
                stop, (state, timedOut) => ((ZmtpConnection)state).Abort(), connection, Timeout.Infinite, true);
            try
            {
                connection.SetOptions(HandshakeMs);
                connection.ShakeHands(socketType, token);
                connection.SetOptions(SilenceMs);
                return connection;
            }
            catch (EversceneException)
            {
                connection.Dispose();
                throw;
            }
            finally
            {
                watch.Unregister(null);
            }
        }

        // A socket that was closed meanwhile, by us or by the other side, takes no options.
        void SetOptions(int receiveMs)
        {
            patienceMs = receiveMs;
            try
            {
                socket.NoDelay = true;
                socket.SendTimeout = SendMs;
                socket.ReceiveTimeout = receiveMs;
            }
            catch (Exception cause) when (cause is SocketException || cause is ObjectDisposedException)
            {
                throw new ConnectionException("the connection was closed", false, cause);
            }
        }

        static Socket Dial(Endpoint endpoint, WaitHandle stop)
        {
            IPAddress[] addresses;
            IPAddress literal;
            try
            {
                if (IPAddress.TryParse(endpoint.Host, out literal)) addresses = new[] { literal };
                else
                {
                    IAsyncResult lookup = Dns.BeginGetHostAddresses(endpoint.Host, null, null);
                    if (WaitHandle.WaitAny(new[] { lookup.AsyncWaitHandle, stop }, ConnectMs) != 0)
                        throw new ConnectionException("no address found for " + endpoint.Host + " in time");
                    addresses = Dns.EndGetHostAddresses(lookup);
                }
            }
            catch (Exception cause) when (cause is SocketException || cause is ArgumentException)
            {
                throw new ConnectionException("no such host: " + endpoint.Host, false, cause);
            }
            ConnectionException last = null;
            foreach (IPAddress address in addresses)
            {
                try
                {
                    return Dial(endpoint, address, stop);
                }
                catch (ConnectionException failure)
                {
                    last = failure; // a name can have addresses of both families, and the server one of them
                }
            }
            throw last ?? new ConnectionException("no address for " + endpoint.Host);
        }

        // Connect blocks, and closing the socket from elsewhere ends it. BeginConnect would be simpler, but it leaves the
        // socket in a mode in which CoreCLR allocates on every receive.
        static Socket Dial(Endpoint endpoint, IPAddress address, WaitHandle stop)
        {
            Socket socket = MakeSocket(address);
            bool given = false;
            RegisteredWaitHandle watch = ThreadPool.RegisterWaitForSingleObject(
                stop, (state, timedOut) => { given = true; ((Socket)state).Close(); }, socket, ConnectMs, true);
            try
            {
                socket.Connect(address, endpoint.Port);
                return socket;
            }
            catch (Exception cause) when (cause is SocketException || cause is ObjectDisposedException)
            {
                socket.Close();
                if (given) throw new ConnectionException("no answer from " + endpoint, false, cause);
                bool refused = cause is SocketException
                    && ((SocketException)cause).SocketErrorCode == SocketError.ConnectionRefused;
                throw new ConnectionException(
                    refused ? "nothing listens at " + endpoint + ": is 'everscene serve' running?"
                            : "no connection to " + endpoint + ": " + cause.Message, false, cause);
            }
            finally
            {
                watch.Unregister(null);
            }
        }

        static Socket MakeSocket(IPAddress address)
        {
            try
            {
                return new Socket(address.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
            }
            catch (SocketException cause)
            {
                throw new ConnectionException("no socket for " + address + ": " + cause.Message, false, cause);
            }
        }

        /// <summary>Sends one message part.</summary>
        public void Send(byte[] body, int length, bool more = false) => SendFrame(body, length, more ? 1 : 0);

        /// <summary>SUB: asks for the topics that begin with <paramref name="topic"/> (ASCII).</summary>
        public void Subscribe(string topic)
        {
            byte[] body = Words("SUBSCRIBE", topic);
            SendFrame(body, body.Length, 4);
        }

        /// <summary>
        /// Waits for the next message part, answering commands meanwhile, and puts it into <paramref name="target"/>,
        /// which is replaced by a larger buffer when it is too small.
        /// </summary>
        /// <param name="limit">Most bytes that are taken; a longer part ends the connection.</param>
        /// <returns>Its length; <paramref name="more"/>: another part of the same message follows.</returns>
        public int Receive(ref byte[] target, int limit, out bool more)
        {
            while (true)
            {
                int flags = ReadHeader(limit, out int length);
                if ((flags & 4) == 0)
                {
                    if (target.Length < length) target = new byte[length];
                    ReadBytes(target, 0, length);
                    more = (flags & 1) != 0;
                    return length;
                }
                if (command.Length < length) command = new byte[length];
                ReadBytes(command, 0, length);
                TakeCommand(length);
            }
        }

        /// <summary>Ends it from any thread: a receive in progress fails at once.</summary>
        public void Abort()
        {
            if (Interlocked.Exchange(ref aborted, 1) != 0) return;
            try
            {
                socket.Shutdown(SocketShutdown.Both);
            }
            catch (Exception cause) when (cause is SocketException || cause is ObjectDisposedException)
            {
                // The other side was first, or the watch over the connecting.
            }
            socket.Close();
        }

        public void Dispose() => Abort();

        int ReadHeader(int limit, out int length)
        {
            Fill(2);
            int flags = inbox[inboxAt++];
            if (flags > 7 || (flags & 5) == 5) throw Broken("a frame with the flags 0x" + flags.ToString("X2"));
            long size = inbox[inboxAt++];
            if ((flags & 2) != 0)
            {
                inboxAt--;
                Fill(8);
                size = 0;
                for (int i = 0; i < 8; i++) size = size << 8 | inbox[inboxAt++];
            }
            if (size < 0 || size > limit) throw Broken("a frame of " + (ulong)size + " bytes, the limit is " + limit);
            length = (int)size;
            return flags;
        }

        void TakeCommand(int length)
        {
            if (length >= 7 && NameIs(command, "PING")) SendPong(length);
            string reason;
            if (ErrorReason(command, length, out reason)) throw new ConnectionException("the server says " + reason);
        }

        // PING is: 4, "PING", ttl of 2 bytes, context of 0 to 16 bytes. PONG gives the context back.
        void SendPong(int length)
        {
            int context = Math.Min(length - 7, 16);
            lock (sending)
            {
                outbox[0] = 4;
                outbox[1] = (byte)(5 + context);
                outbox[2] = 4;
                outbox[3] = (byte)'P';
                outbox[4] = (byte)'O';
                outbox[5] = (byte)'N';
                outbox[6] = (byte)'G';
                Buffer.BlockCopy(command, 7, outbox, 7, context);
                SendOutbox(7 + context);
            }
        }

        void SendFrame(byte[] body, int length, int flags)
        {
            lock (sending)
            {
                if (outbox.Length < length + 9) outbox = new byte[length + 9];
                int at = 0;
                if (length > 255)
                {
                    outbox[at++] = (byte)(flags | 2);
                    for (int shift = 56; shift >= 0; shift -= 8) outbox[at++] = (byte)((long)length >> shift);
                }
                else
                {
                    outbox[at++] = (byte)flags;
                    outbox[at++] = (byte)length;
                }
                Buffer.BlockCopy(body, 0, outbox, at, length);
                SendOutbox(at + length);
            }
        }

        void SendOutbox(int count)
        {
            SocketError error = SocketError.Success;
            try
            {
                for (int sent = 0; sent < count && error == SocketError.Success;)
                    sent += socket.Send(outbox, sent, count - sent, SocketFlags.None, out error);
            }
            catch (ObjectDisposedException cause)
            {
                throw new ConnectionException("the connection was closed", false, cause);
            }
            if (error != SocketError.Success) throw Lost(error);
        }

        /// <summary>Makes sure that <paramref name="count"/> bytes (at most 64) lie in the inbox.</summary>
        void Fill(int count)
        {
            if (inboxEnd - inboxAt >= count) return;
            Buffer.BlockCopy(inbox, inboxAt, inbox, 0, inboxEnd - inboxAt);
            inboxEnd -= inboxAt;
            inboxAt = 0;
            while (inboxEnd < count) inboxEnd += ReceiveSome(inbox, inboxEnd, inbox.Length - inboxEnd);
        }

        void ReadBytes(byte[] target, int offset, int count)
        {
            int here = Math.Min(count, inboxEnd - inboxAt);
            Buffer.BlockCopy(inbox, inboxAt, target, offset, here);
            inboxAt += here;
            while (here < count) here += ReceiveSome(target, offset + here, count - here);
        }

        int ReceiveSome(byte[] target, int offset, int count)
        {
            SocketError error;
            int got;
            try
            {
                got = socket.Receive(target, offset, count, SocketFlags.None, out error);
            }
            catch (ObjectDisposedException cause)
            {
                throw new ConnectionException("the connection was closed", false, cause);
            }
            if (error != SocketError.Success) throw Lost(error);
            if (got == 0) throw HungUp();
            return got;
        }

        ConnectionException Lost(SocketError error)
        {
            if (Volatile.Read(ref aborted) != 0) return new ConnectionException("the connection was closed");
            // A server that hangs up is one event, whichever way the system learns of it.
            if (error == SocketError.ConnectionReset || error == SocketError.ConnectionAborted || error == SocketError.Shutdown)
                return HungUp();
            // Unix reports the receive timeout as WouldBlock, Windows as TimedOut.
            bool silent = error == SocketError.TimedOut || error == SocketError.WouldBlock;
            return new ConnectionException(
                silent ? "nothing was heard from " + endpoint + " for " + patienceMs / 1000 + " s"
                       : "the connection to " + endpoint + " was lost (" + error + ")");
        }

        ConnectionException HungUp() => new ConnectionException("the server at " + endpoint + " closed the connection");

        ConnectionException Broken(string what) =>
            new ConnectionException(endpoint + " sent what is no ZMTP: " + what);
    }
}
